"""Runs one replica: `python -m engineshed.replica --directory DIR`."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog

from engineshed.api.replica.v1.replica_service_pb2 import Phase
from engineshed.runtime import TlsSettings, configure_logging, run
from engineshed.telemetry.tracing import configure_tracing
from engineshed.triton.engine import EngineManifest, EngineManifestError

_INVALID = 2
"""The exit status when there is nothing to run."""

log = structlog.get_logger()


def main() -> None:
    """Run the replica that the command line names; exit when it ends."""
    parser = argparse.ArgumentParser(prog="engineshed.replica", description=__doc__)
    parser.add_argument(
        "--directory", type=Path, required=True, help="the replica's folder, with spec.json in it"
    )
    _keep_light()
    sys.exit(_run(parser.parse_args().directory.resolve()))


def _keep_light() -> None:
    """Keep PyTorch out of this process: the tokenizer does not need it, and it takes 180 MB."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # this is how an import is made to fail
    os.environ |= {
        "HF_HUB_OFFLINE": "1",  # whatever a checkpoint refers to, nothing is fetched
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "GRPC_ENABLE_FORK_SUPPORT": "0",  # children become other programs at once
    }


def _run(directory: Path) -> int:
    from engineshed.replica.front import Front
    from engineshed.replica.spec import SpecError, read_spec
    from engineshed.replica.status import Status

    try:
        spec = read_spec(directory)
    except SpecError as error:
        configure_logging("replica")
        log.error("spec_invalid", reason=str(error))
        return _INVALID
    configure_logging("replica", spec.log_level)
    configure_tracing("replica")
    structlog.contextvars.bind_contextvars(replica_id=spec.replica_id, endpoint_id=spec.endpoint_id)
    status = Status(directory, spec.replica_id)
    try:
        manifest = EngineManifest.read(Path(spec.engine_directory))
    except EngineManifestError as error:
        status.change(
            phase=Phase.PHASE_FAILED, code="ENGINE_INVALID", reason=str(error), retryable=True
        )
        return 1
    exit_status = 1

    async def live(stop: asyncio.Event) -> None:
        nonlocal exit_status
        front = Front(directory, spec, manifest, status, TlsSettings().tls)
        # SIGINT ends it at once; a host that shuts down sends SIGTERM.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, front.retire)
        exit_status = await front.run(stop)

    run(live)
    return exit_status


if __name__ == "__main__":
    main()
