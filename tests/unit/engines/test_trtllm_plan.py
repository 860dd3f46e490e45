"""What a build of the tensorrt_llm back end is told, and what is refused before anything runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engineshed.agent.engines.interface import (
    BuildRequest,
    Checkpoint,
    EngineBuildError,
    Hardware,
)
from engineshed.agent.engines.tensorrt_llm.arguments import (
    build_arguments,
    convert_arguments,
    quantize_arguments,
)
from engineshed.agent.engines.tensorrt_llm.plan import (
    BuildPlan,
    Calibration,
    Means,
    plan_build,
)
from engineshed.agent.engines.tensorrt_llm.shape import Model, end_ids
from engineshed.fit import ModelShape

GIB = 2**30
H100 = Hardware("NVIDIA H100 80GB HBM3", 1, 80 * GIB, "9.0", "590")
B200 = replace(H100, product="NVIDIA B200", architecture="10.0", memory_bytes=180 * GIB)
A100 = replace(H100, product="NVIDIA A100-SXM4-80GB", architecture="8.0")

LLAMA = Model(
    architecture="LlamaForCausalLM",
    shape=ModelShape(
        parameters=8_000_000_000,
        quantizable=7_000_000_000,
        weight_bytes=16_000_000_000,
        layers=32,
        kv_heads=8,
        head_dim=128,
        latent=0,
        hidden=4096,
        experts=0,
        max_context=131072,
    ),
    dtype="bfloat16",
    heads=32,
    stated_context=131072,
    vocab_size=128256,
    quantized_by=None,
    reordered=False,
)
MEANS = Means(compiled=True, guided=True, calibration=Calibration("c0ffee", 2000))
REQUEST = BuildRequest(Checkpoint(Path("/c"), "sha256:1"), H100)
MODEL, OUT = Path("/model"), Path("/out")


def plan(
    model: Model = LLAMA, means: Means = MEANS, hardware: Hardware = H100, **asked: Any
) -> BuildPlan:
    return plan_build(replace(REQUEST, hardware=hardware, **asked), model, means)


def refused(code: str, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(EngineBuildError) as error:
        plan(*args, **kwargs)
    assert (error.value.code, error.value.retryable) == (code, False)
    return error.value.message


def words(arguments: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


def test_where_nothing_is_asked_for_the_checkpoint_and_the_defaults_decide() -> None:
    found = plan()

    assert (found.route, found.dtype, found.quantization, found.tp_size) == (
        "convert",
        "bfloat16",
        None,
        1,
    )
    limits = found.limits
    assert (limits.max_seq_len, limits.max_input_len) == (8192, 8191)
    assert (limits.max_batch_size, limits.max_num_tokens, limits.max_beam_width) == (64, 8192, 1)


def test_a_model_made_for_less_gets_no_more_context() -> None:
    assert plan(replace(LLAMA, stated_context=2048)).limits.max_seq_len == 2048


def test_where_memory_is_short_the_engine_is_made_for_the_context_there_is_room_for() -> None:
    small = replace(H100, memory_bytes=int(17.4 * GIB))

    context = plan(hardware=small).limits.max_seq_len

    assert 2048 <= context < 8192
    assert plan(hardware=small, max_context=8192).limits.max_seq_len == 8192


def test_what_is_asked_for_is_what_the_engine_is_told() -> None:
    found = plan(max_context=4096, max_concurrent=16, max_batch_tokens=2048, precision="float16")

    told = words(build_arguments(found, Path("/converted"), OUT))
    assert told == {
        "--checkpoint_dir": "/converted",
        "--output_dir": "/out",
        "--max_batch_size": "16",
        "--max_input_len": "4095",
        "--max_seq_len": "4096",
        "--max_num_tokens": "2048",
        "--max_beam_width": "1",
        "--kv_cache_type": "paged",
        "--tokens_per_block": "32",
        "--gpt_attention_plugin": "auto",
        "--gemm_plugin": "auto",
        "--remove_input_padding": "enable",
        "--context_fmha": "enable",
        "--use_paged_context_fmha": "enable",
        "--use_fp8_context_fmha": "disable",
        "--multiple_profiles": "enable",
        "--workers": "1",
        "--log_level": "info",
    }
    assert found.dtype == "float16"


def test_a_batch_is_never_larger_than_the_tokens_of_a_step() -> None:
    assert plan(max_batch_tokens=32).limits.max_batch_size == 32
    assert plan(max_concurrent=10_000).limits.max_num_tokens == 10_000
    assert "less than 50" in refused(
        "UNSUPPORTED_BATCH_TOKENS", max_batch_tokens=40, max_concurrent=50
    )
    assert "less than 32" in refused("UNSUPPORTED_BATCH_TOKENS", max_batch_tokens=31)


def test_no_limit_is_one_that_trtllm_build_would_change() -> None:
    assert plan(max_context=64, max_concurrent=4).limits.max_num_tokens == 256
    assert plan(max_context=64, max_concurrent=4, max_batch_tokens=900).limits.max_num_tokens == 256
    assert plan(max_context=16, max_concurrent=1).limits.max_num_tokens == 32


def test_in_float32_nothing_needs_what_only_half_precision_has() -> None:
    found = plan(precision="float32", max_context=16384)

    assert found.features["context_fmha"] == found.features["use_paged_context_fmha"] == "disable"
    assert found.limits.max_num_tokens >= 16384
    refused(
        "UNSUPPORTED_BATCH_TOKENS", precision="float32", max_context=16384, max_batch_tokens=8192
    )


@pytest.mark.parametrize(
    ("quantization", "hardware", "told"),
    [
        ("fp8", H100, {"--qformat": "fp8", "--kv_cache_dtype": "fp8"}),
        ("int8_sq", A100, {"--qformat": "int8_sq"}),
        ("int4_awq", A100, {"--qformat": "int4_awq", "--awq_block_size": "128"}),
        (
            "w4a8_awq",
            H100,
            {"--qformat": "w4a8_awq", "--awq_block_size": "128", "--kv_cache_dtype": "fp8"},
        ),
        ("nvfp4", B200, {"--qformat": "nvfp4", "--kv_cache_dtype": "fp8"}),
    ],
)
def test_what_is_calibrated_is_quantized_with_texts_of_this_host(
    quantization: str, hardware: Hardware, told: dict[str, str]
) -> None:
    found = plan(hardware=hardware, quantization=quantization)

    assert found.route == "quantize"
    assert words(quantize_arguments(found, MODEL, Path("/texts"), OUT)) == told | {
        "--model_dir": "/model",
        "--output_dir": "/out",
        "--dtype": "bfloat16",
        "--calib_dataset": "/texts",
        "--calib_size": "512",
        "--calib_max_seq_length": "512",
        "--tp_size": "1",
        "--pp_size": "1",
    }


def test_fp8_is_multiplied_without_the_plugin() -> None:
    assert plan(quantization="fp8").features["gemm_plugin"] == "disable"
    assert plan().features["gemm_plugin"] == "auto"


@pytest.mark.parametrize(
    ("quantization", "attention"),
    [("fp8", "enable"), ("w4a8_awq", "enable"), ("int4_awq", "disable"), ("int8_sq", "disable")],
)
def test_keys_and_values_in_fp8_are_attended_to_in_fp8(quantization: str, attention: str) -> None:
    assert plan(quantization=quantization).features["use_fp8_context_fmha"] == attention


def test_weights_alone_are_narrowed_while_converting_without_texts() -> None:
    found = plan(means=replace(MEANS, calibration=None), quantization="int8_wo")

    options = {"--model_dir", "--output_dir", "--dtype", "--use_weight_only"}
    options |= {"--weight_only_precision", "--workers"}
    assert convert_arguments(found, options, MODEL, OUT) == (
        *("--model_dir", "/model", "--output_dir", "/out", "--dtype", "bfloat16"),
        *("--use_weight_only", "--weight_only_precision", "int8", "--workers", "1"),
    )


def test_each_familys_script_gets_the_options_that_it_has() -> None:
    two = plan(hardware=replace(H100, count=2))
    gemma = {"--ckpt-type", "--model-dir", "--output-model-dir", "--world-size", "--dtype"}

    assert convert_arguments(two, gemma, MODEL, OUT) == (
        *("--model-dir", "/model", "--output-model-dir", "/out", "--dtype", "bfloat16"),
        *("--world-size", "2", "--ckpt-type", "hf"),
    )


def test_a_script_without_a_needed_option_is_refused_clearly() -> None:
    two = plan(hardware=replace(H100, count=2))

    with pytest.raises(EngineBuildError, match="--tp_size") as error:
        convert_arguments(two, {"--model_dir", "--output_dir", "--dtype"}, MODEL, OUT)

    assert error.value.code == "TOOLCHAIN_MISMATCH"


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("UNSUPPORTED_PRECISION", {"precision": "int7"}),
        ("UNSUPPORTED_PRECISION", {"precision": "float32", "quantization": "fp8"}),
        ("UNSUPPORTED_QUANTIZATION", {"quantization": "int7"}),
        ("UNSUPPORTED_QUANTIZATION", {"quantization": "fp8", "hardware": A100}),
        ("UNSUPPORTED_QUANTIZATION", {"quantization": "nvfp4"}),
        (
            "UNSUPPORTED_QUANTIZATION",
            {
                "quantization": "nvfp4",
                "hardware": B200,
                "model": replace(LLAMA, architecture="Qwen2ForCausalLM"),
            },
        ),
        ("MAX_CONTEXT_TOO_LARGE", {"max_context": 131073}),
        ("MAX_CONTEXT_TOO_SMALL", {"max_context": 8}),
        ("UNSUPPORTED_GPU_COUNT", {"hardware": replace(H100, count=3)}),
        (
            "NO_CALIBRATION_DATA",
            {"quantization": "fp8", "means": replace(MEANS, calibration=None)},
        ),
        (
            "ALREADY_QUANTIZED",
            {"quantization": "fp8", "model": replace(LLAMA, quantized_by="gptq")},
        ),
        (
            "UNSUPPORTED_QUANTIZATION",
            {"model": replace(LLAMA, quantized_by="gptq", reordered=True)},
        ),
        ("UNSUPPORTED_QUANTIZATION", {"model": replace(LLAMA, quantized_by="bitsandbytes")}),
        (
            "UNSUPPORTED_QUANTIZATION",
            {"model": replace(LLAMA, quantized_by="gptq"), "hardware": B200},
        ),
        (
            "UNSUPPORTED_QUANTIZATION",
            {"model": replace(LLAMA, quantized_by="fbgemm_fp8"), "hardware": A100},
        ),
        ("UNSUPPORTED_QUANTIZATION", {"quantization": "int8_wo", "hardware": B200}),
        (
            "UNSUPPORTED_QUANTIZATION",
            {"quantization": "int8_wo", "means": replace(MEANS, compiled=False)},
        ),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_for_good(code: str, asked: dict[str, Any]) -> None:
    assert refused(code, **asked)


def test_missing_texts_are_said_where_they_belong() -> None:
    message = refused(
        "NO_CALIBRATION_DATA", means=replace(MEANS, calibration=None), quantization="fp8"
    )

    assert "ENGINESHED_CALIBRATION_DIR" in message
    assert "train.jsonl" in message


def test_the_gpu_counts_that_would_do_are_named() -> None:
    assert "1, 2, 4, 8" in refused("UNSUPPORTED_GPU_COUNT", hardware=replace(H100, count=3))


def test_fewer_heads_of_keys_and_values_than_gpus_are_replicated() -> None:
    two_heads = replace(LLAMA, shape=replace(LLAMA.shape, kv_heads=2))

    assert plan(two_heads, hardware=replace(H100, count=4)).tp_size == 4


@pytest.mark.parametrize("method", ["gptq", "awq", "fbgemm_fp8"])
def test_a_checkpoint_that_is_quantized_already_is_converted_as_it_is(method: str) -> None:
    found = plan(replace(LLAMA, quantized_by=method))

    assert (found.route, found.quantization, found.quantizing) == ("convert", method, None)


def test_the_rest_of_a_quantized_checkpoint_in_float32_is_computed_in_half_precision() -> None:
    assert plan(replace(LLAMA, dtype="float32"), quantization="fp8").dtype == "float16"
    assert plan(replace(LLAMA, dtype="float32")).dtype == "float32"


def test_without_a_tensorrt_class_nothing_is_compiled() -> None:
    found = plan(replace(LLAMA, quantized_by="mxfp4"), replace(MEANS, compiled=False))

    assert (found.route, found.features, found.guided_decoding) == ("interpret", {}, False)
    assert found.limits.max_seq_len == 8192


@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [
        ({"eos_token_id": 2}, {}, (2,)),
        ({"eos_token_id": 2}, {"eos_token_id": [9, 7]}, (7, 9)),
        ({"text_config": {"eos_token_id": 5}, "eos_token_id": 2}, {}, (5,)),
        ({}, {}, ()),
        ({"eos_token_id": None}, {"eos_token_id": None}, ()),
    ],
)
def test_end_tokens_are_those_of_generation_or_else_of_the_model(
    config: dict[str, Any], generation: dict[str, Any], ids: tuple[int, ...]
) -> None:
    assert end_ids(config, generation) == ids
