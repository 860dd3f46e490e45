"""The manifest of a checkpoint: its files with their hashes; its digest is the identity."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

FILE_NAME: Final = "manifest.json"

# The longest manifest that an event carries: brokers take messages up to 1 MiB.
MAX_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True, order=True)
class ManifestLine:
    """One file of a checkpoint."""

    path: str  # relative to its directory, with "/"
    size_bytes: int
    sha256: str  # hexadecimal


def canonical(lines: Iterable[ManifestLine]) -> bytes:
    """Return the manifest as it is written: JSON, sorted by path, without white space."""
    listed = [
        {"path": line.path, "sha256": line.sha256, "size_bytes": line.size_bytes}
        for line in sorted(lines)
    ]
    return json.dumps(listed, separators=(",", ":"), sort_keys=True).encode()


def digest_of(lines: Iterable[ManifestLine]) -> str:
    """Return the identity of what the manifest lists: "sha256:" and the hash of its text."""
    return "sha256:" + hashlib.sha256(canonical(lines)).hexdigest()
