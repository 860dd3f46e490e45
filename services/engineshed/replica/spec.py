"""What a replica is told: the file spec.json in its directory."""

from pathlib import Path
from typing import Final

from google.protobuf import json_format

from engineshed.api.replica.v1.replica_service_pb2 import ReplicaSpec

FILE_NAME: Final = "spec.json"
_NEEDED: Final = ("replica_id", "routing_key", "secret", "model_repository", "engine_directory")
_LEAST_MAX_REQUESTS: Final = 32


class SpecError(Exception):
    """spec.json is missing, or says too little."""


def read_spec(directory: Path) -> ReplicaSpec:
    """Read the file from the replica's directory, with defaults in place of what is empty.

    Raises:
        SpecError: it cannot be read, or a field without a default is empty.

    """
    path = directory / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
        # A newer agent may say more than this version knows.
        spec = json_format.Parse(text, ReplicaSpec(), ignore_unknown_fields=True)
    except (OSError, ValueError, json_format.ParseError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    if missing := [name for name in _NEEDED if not getattr(spec, name)]:
        raise SpecError(f"{path} does not say: {', '.join(missing)}")
    spec.listen_host = spec.listen_host or "127.0.0.1"
    spec.log_level = spec.log_level or "info"
    spec.triton_directory = spec.triton_directory or str(directory / "triton")
    return spec


def max_requests(spec: ReplicaSpec, max_concurrent: int) -> int:
    """Return how many requests are admitted at once, for an engine that works on so many."""
    return spec.max_requests or max(_LEAST_MAX_REQUESTS, 2 * max_concurrent)
