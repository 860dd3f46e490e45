"""The artifact store: a folder with one read-only directory for each checkpoint.

checkpoints/ckpt_…/            complete: it appears at once, by a rename
checkpoints/ckpt_….tmp-…/      being copied, or what a killed process left
"""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engineshed.catalog.domain.checkpoint import location_of
from engineshed.catalog.domain.manifest import FILE_NAME, ManifestLine, canonical

_SCRATCH: Final = ".tmp-"
_DIRECTORY_MODE: Final = 0o555
_FILE_MODE: Final = 0o444


class ArtifactStore:
    """Directories below one root. All methods wait for the disk: not for the event loop."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, checkpoint_id: str) -> Path:
        """Return where the complete copy of a checkpoint is, or would be."""
        return self.root / location_of(checkpoint_id)

    def prepare(self) -> None:
        """Make the store if it is missing."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)

    def new_scratch(self, checkpoint_id: str) -> Path:
        """Make and return an empty directory to copy a checkpoint into."""
        scratch = self._checkpoints / f"{checkpoint_id}{_SCRATCH}{secrets.token_hex(4)}"
        scratch.mkdir(mode=0o700)
        return scratch

    def place(self, scratch: Path, checkpoint_id: str, lines: Sequence[ManifestLine]) -> None:
        """Make what was copied into `scratch` the checkpoint, with its manifest, for ever."""
        manifest = scratch / FILE_NAME
        with manifest.open("wb") as file:
            file.write(canonical(lines))
            file.flush()
            os.fchmod(file.fileno(), _FILE_MODE)
            os.fsync(file.fileno())
        target = self.directory(checkpoint_id)
        for folder in _folders(scratch):
            _fsync(folder)
            if folder != scratch:
                folder.chmod(_DIRECTORY_MODE)
        scratch.rename(target)
        target.chmod(_DIRECTORY_MODE)
        _fsync(target)
        _fsync(self._checkpoints)

    def remove(self, checkpoint_id: str) -> None:
        """Remove all that there is of a checkpoint; nothing happens when there is nothing."""
        for path in self._checkpoints.glob(f"{checkpoint_id}{_SCRATCH}*"):
            remove_tree(path)
        remove_tree(self.directory(checkpoint_id))

    def checkpoint_ids(self) -> set[str]:
        """Return the checkpoints of which there is anything."""
        return {path.name.partition(_SCRATCH)[0] for path in self._checkpoints.iterdir()}

    @property
    def _checkpoints(self) -> Path:
        return self.root / location_of("")


def remove_tree(root: Path) -> None:
    """Remove a directory and all in it, also when it is read-only or half removed already."""
    if not root.exists():
        return
    for folder in _folders(root):
        folder.chmod(0o700)
    shutil.rmtree(root)


def _folders(root: Path) -> list[Path]:
    """Return the directories of a tree, `root` first; listing them needs no right to write."""
    return [Path(folder) for folder, _, _ in os.walk(root)]


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
