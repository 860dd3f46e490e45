"""The image's template is filled in, or it is said what of it is not as it is known to be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.standins.tensorrt_llm.templates import Template

from engineshed.agent.engines.interface import EngineBuildError
from engineshed.agent.engines.tensorrt_llm.render import (
    fill_in,
    render_compiled,
    write_interpreted,
)
from engineshed.triton.engine import EngineManifest

NEEDED = 'a: ${decoupled_mode} b: ${triton_max_batch_size} p: "${engine_dir}"\n'
VALUES = {"decoupled_mode": "True", "triton_max_batch_size": "8", "engine_dir": "/e"}
MANIFEST = EngineManifest(
    backend="tensorrt_llm",
    engine_kind="tensorrt",
    checkpoint_digest="sha256:1",
    architecture="LlamaForCausalLM",
    parameter_count=1,
    dtype="bfloat16",
    quantization=None,
    vocab_size=300,
    max_context=256,
    max_concurrent=16,
    eos_token_ids=(2,),
    hardware="NVIDIA H100",
    decoding="continuous",
    attention="gpt_attention_plugin",
    tokenizer="tokenizer",
    world_size=2,
    max_batch_tokens=4096,
)
BUILT: dict[str, Any] = {
    "max_batch_size": 16,
    "max_beam_width": 1,
    "plugin_config": {"use_paged_context_fmha": True},
}


def rendered(
    template: str = Template().text(),
    manifest: EngineManifest = MANIFEST,
    built: dict[str, Any] = BUILT,
    fraction: float | None = None,
) -> str:
    worker = Path("/triton/trtllmExecutorWorker")
    return render_compiled(template, Path("/engines/k"), manifest, built, fraction, worker)


def parameters(text: str) -> dict[str, str]:
    """Return the parameters of a config.pbtxt that are set."""
    lines = [line for line in text.splitlines() if line.startswith("parameters: {")]
    pairs = [(line.split('"')[1], line.split('"')[3]) for line in lines]
    return {key: value for key, value in pairs if not value.startswith("${")}


@pytest.mark.parametrize("template", [Template(), Template(older=True)])
def test_the_templates_of_several_releases_are_filled_in(template: Template) -> None:
    text = rendered(template.text())

    assert 'backend: "tensorrtllm"' in text
    assert "max_batch_size: 16\n" in text
    assert "decoupled: True" in text
    assert "max_queue_size: 64 " in text
    assert parameters(text)["gpt_model_path"] == "/engines/k/engine"


def test_batching_reuse_and_chunks_are_on() -> None:
    found = parameters(rendered())

    assert found["gpt_model_type"] == "inflight_fused_batching"
    assert found["enable_kv_cache_reuse"] == found["enable_chunked_context"] == "true"
    assert found["exclude_input_in_output"] == "True"
    assert found["normalize_log_probs"] == "False", "OpenAI's are of the whole vocabulary"
    assert found["kv_cache_free_gpu_mem_fraction"] == "0.9"
    assert found["gpu_device_ids"] == "0,1"
    assert "participant_ids" not in found
    assert "guided_decoding_backend" not in found


def test_an_engine_without_paged_attention_is_not_told_to_reuse() -> None:
    found = parameters(rendered(built=BUILT | {"plugin_config": {"use_paged_context_fmha": False}}))

    assert found["enable_kv_cache_reuse"] == found["enable_chunked_context"] == "false"


def test_the_share_of_memory_is_the_endpoints() -> None:
    assert parameters(rendered(fraction=0.5))["kv_cache_free_gpu_mem_fraction"] == "0.5"


def test_an_engine_that_can_be_guided_is_given_what_that_needs() -> None:
    found = parameters(rendered(manifest=replace(MANIFEST, guided_decoding=True)))

    assert found["guided_decoding_backend"] == "xgrammar"
    assert found["xgrammar_tokenizer_info_path"] == (
        "/engines/k/guided/xgrammar_tokenizer_info.json"
    )


def test_a_variable_that_nobody_knows_is_named() -> None:
    with pytest.raises(EngineBuildError, match="something_new") as error:
        rendered(Template(extra_variable=True).text())

    assert (error.value.code, error.value.retryable) == ("RENDER_BUG", False)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ('x: "${brand_new}"', "brand_new"),  # in quotes, too
        ("x: '${brand_new}'", "brand_new"),
        ("x: ${participant_ids}", "participant_ids"),  # may be unset in quotes only
    ],
)
def test_what_would_be_read_wrongly_is_refused(more: str, name: str) -> None:
    with pytest.raises(EngineBuildError, match=name):
        fill_in(NEEDED + more, VALUES)


def test_what_is_optional_may_stay_unset_in_quotes() -> None:
    text = fill_in(NEEDED + 'x: "${participant_ids}"', VALUES)

    assert text == 'a: True b: 8 p: "/e"\nx: "${participant_ids}"'


def test_a_template_that_does_not_take_the_engine_is_refused() -> None:
    with pytest.raises(EngineBuildError, match="lacks: engine_dir"):
        fill_in(NEEDED.replace("engine_dir", "num_nodes"), VALUES)


def test_variables_in_comments_and_lone_signs_are_left_alone() -> None:
    text = fill_in(NEEDED + '# ${whatever} $5\ny: "$5 # ${num_nodes}"', VALUES)

    assert text.endswith('# ${whatever} $5\ny: "$5 # ${num_nodes}"')


def test_a_path_with_quotes_stays_one_string() -> None:
    text = fill_in(NEEDED, VALUES | {"engine_dir": '/a "b"\\c'})

    assert r'p: "/a \"b\"\\c"' in text


def test_the_llm_api_is_told_all_limits(tmp_path: Path) -> None:
    template = tmp_path / "llmapi"
    (template / "1").mkdir(parents=True)
    (template / "config.pbtxt").write_text('name: "tensorrt_llm"\nbackend: "python"\n')
    (template / "1" / "model.py").write_text("code")
    (template / "1" / "model.yaml").write_text("model: another")

    write_interpreted(template, Path("/engines/k"), MANIFEST, tmp_path / "repository", 0.4)

    model = tmp_path / "repository" / "tensorrt_llm"
    assert (model / "1" / "model.py").read_text() == "code"
    assert "decoupled: true" in (model / "config.pbtxt").read_text()
    assert json.loads((model / "1" / "model.yaml").read_text()) == {
        "model": "/engines/k/checkpoint",
        "backend": "pytorch",
        "dtype": "bfloat16",
        "tensor_parallel_size": 2,
        "max_batch_size": 16,
        "max_num_tokens": 4096,
        "max_seq_len": 256,
        "enable_chunked_prefill": True,
        "kv_cache_config": {"free_gpu_memory_fraction": 0.4, "enable_block_reuse": True},
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
