"""engine.json."""

from dataclasses import replace
from pathlib import Path

import pytest

from engineshed.triton.engine import EngineFile, EngineManifest, EngineManifestError

MANIFEST = EngineManifest(
    backend="torch",
    engine_kind="pytorch",
    checkpoint_digest="sha256:00",
    architecture="LlamaForCausalLM",
    parameter_count=5,
    dtype="bfloat16",
    quantization=None,
    vocab_size=100,
    max_context=64,
    max_concurrent=4,
    eos_token_ids=(2, 7),
    hardware="cpu",
    decoding="sequential",
    attention="sdpa",
    tokenizer="checkpoint",
    versions={"torch": "2"},
).sealed({"b": EngineFile(1, "bb"), "a": EngineFile(2, "aa")})


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)

    assert EngineManifest.read(tmp_path) == MANIFEST


def test_the_digest_is_that_of_everything_in_it() -> None:
    assert MANIFEST.is_whole
    assert MANIFEST.digest.startswith("sha256:")
    assert not replace(MANIFEST, dtype="float32").is_whole
    assert MANIFEST.sealed({"a": EngineFile(2, "aa")}).digest != MANIFEST.digest
    assert MANIFEST.sealed(dict(reversed(MANIFEST.files.items()))) == MANIFEST


@pytest.mark.parametrize("content", [None, "{", "{}", '{"backend": 1}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "engine.json").write_text(content)

    with pytest.raises(EngineManifestError, match=r"engine\.json"):
        EngineManifest.read(tmp_path)
