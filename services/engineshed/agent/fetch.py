"""Getting at a checkpoint: its folder below the artifact store, and proof that it is the right one.

The store is a folder that catalog and agents both reach. The files themselves are hashed when an
engine is built from them; here the list of their hashes is compared with what was asked for.
"""

import asyncio
import hashlib
from pathlib import Path
from typing import Final

from engineshed.agent.engines.interface import Checkpoint
from engineshed.errors import DomainError, Kind

MANIFEST: Final = "manifest.json"


class CheckpointUnreachableError(DomainError):
    """The checkpoint cannot be read now; that may pass."""

    kind = Kind.UNAVAILABLE
    reason = "CHECKPOINT_UNREACHABLE"


class CheckpointMismatchError(DomainError):
    """What lies there is not the checkpoint that was asked for."""

    kind = Kind.REFUSED
    reason = "CHECKPOINT_MISMATCH"


class ArtifactStore:
    """The folder of all checkpoints."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def checkpoint(self, location: str, digest: str) -> Checkpoint:
        """Return the checkpoint at `location`, a path relative to the store.

        Raises:
            CheckpointUnreachableError: nothing is there, or it cannot be read.
            CheckpointMismatchError: its identity is not `digest`, or it lies outside the store.

        """
        return await asyncio.to_thread(self._checkpoint, location, digest)

    def digests(self) -> frozenset[str]:
        """Return the identities of all checkpoints; none when the store cannot be read. Blocks."""
        try:
            manifests = [path.read_bytes() for path in self._root.glob(f"checkpoints/*/{MANIFEST}")]
        except OSError:
            return frozenset()
        return frozenset(map(_identity, manifests))

    def _checkpoint(self, location: str, digest: str) -> Checkpoint:
        root = self._root.resolve()
        directory = (root / location).resolve()
        if not location or directory == root or not directory.is_relative_to(root):
            raise CheckpointMismatchError(
                f"the checkpoint's location {location!r} is not below the artifact store",
                location=location,
            )
        try:
            manifest = (directory / MANIFEST).read_bytes()
        except OSError as error:
            raise CheckpointUnreachableError(
                f"the checkpoint at {location!r} cannot be read: {error.strerror}; see that this "
                "host reaches the artifact store",
                location=location,
            ) from error
        found = _identity(manifest)
        if found != digest:
            raise CheckpointMismatchError(
                f"the checkpoint at {location!r} has the identity {found}, not {digest}",
                location=location,
                found=found,
                expected=digest,
            )
        return Checkpoint(directory, digest)


def _identity(manifest: bytes) -> str:
    return "sha256:" + hashlib.sha256(manifest).hexdigest()
