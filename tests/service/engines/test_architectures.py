"""Whatever the architecture: greedy answers are those of `generate`, token for token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engineshed.agent.engines.torch.serving import LoadedEngine
from engineshed.triton.engine import EngineManifest

from .checkpoints import END_ID, write_checkpoint
from .engines import ask, build_here, inputs, prompts_of, reference

_LENGTHS = (1, 2, 5, 17, 40, 64, 100, 9, 33, 3, 50, 21, 7, 80, 12, 28)
_DECODING = {
    "llama": "continuous",
    "qwen2": "continuous",
    "mistral": "continuous",
    "gemma2": "continuous",
    "gemma3_text": "continuous",
    "mixtral": "continuous",
    "phi": "continuous",
    "gpt_neox": "continuous",
    "opt": "continuous",
    "gpt2": "continuous",
    "gptj": "sequential",
    "mpt": "sequential",
    "bloom": "sequential",
    "falcon": "sequential",
    "mamba": "sequential",
    "lfm2": "sequential",
    "recurrent_gemma": "exclusive",
}


@pytest.mark.parametrize("kind", _DECODING)
def test_answers_at_once_are_those_of_generate_alone(
    kind: str, checkpoint: Callable[[str], Path], engine: Callable[[str], Path]
) -> None:
    prompts = prompts_of(_LENGTHS)
    expected = reference(checkpoint(kind), prompts, 16)
    loaded = LoadedEngine(engine(kind), on_broken=lambda: None)
    try:
        asked = [ask(loaded, inputs(prompt, 16, end_id=END_ID)) for prompt in prompts]
        answers = [each.answer() for each in asked]
    finally:
        loaded.close()

    assert loaded.manifest.decoding == _DECODING[kind]
    assert answers == expected


@pytest.mark.parametrize("kind", ["llama", "recurrent_gemma"])
def test_how_a_model_is_decoded_does_not_depend_on_how_well_it_was_trained(
    kind: str, tmp_path: Path
) -> None:
    untrained = write_checkpoint(kind, tmp_path / "untrained", scale=1.0)

    engine = build_here(untrained, tmp_path / "engine")

    assert EngineManifest.read(engine).decoding == _DECODING[kind]


_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        ("llama", _DYNAMIC),
        ("gemma3_text", {"full_attention": _DYNAMIC, "sliding_attention": _DYNAMIC}),
    ],
)
def test_positions_that_depend_on_the_length_of_a_request_are_not_shared_in_a_batch(
    kind: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(kind, tmp_path / "checkpoint", rope_parameters=rope)

    engine = build_here(checkpoint, tmp_path / "engine")

    assert EngineManifest.read(engine).decoding == "sequential"
