"""The artifact store, as an agent reads it."""

import hashlib
from pathlib import Path

from engineshed.agent.fetch import ArtifactStore


def test_the_store_knows_the_identity_of_each_checkpoint_in_it(tmp_path: Path) -> None:
    for name in ("ckpt_1", "ckpt_2"):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(name)
    (tmp_path / "checkpoints" / "half_copied").mkdir()

    expected = {f"sha256:{hashlib.sha256(name).hexdigest()}" for name in (b"ckpt_1", b"ckpt_2")}
    assert ArtifactStore(tmp_path).digests() == expected


def test_a_store_that_is_not_there_is_told_by_nothing_in_it(tmp_path: Path) -> None:
    assert ArtifactStore(tmp_path / "not mounted").digests() == frozenset()
