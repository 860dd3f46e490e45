"""What a compiled engine can do on a GPU, and what is said where it cannot."""

import pytest

from engineshed.fit import capability_of, unsupported

LLAMA = "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("quantization", "least"),
    [
        ("", "8.0"),
        ("int8_wo", "8.0"),
        ("int8_sq", "8.0"),
        ("int4_awq", "8.0"),
        ("fp8", "8.9"),
        ("w4a8_awq", "8.9"),
        ("nvfp4", "12.0"),  # and before, see below
    ],
)
def test_each_quantization_goes_from_one_generation_on(quantization: str, least: str) -> None:
    generations = ["7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "12.0"]
    going = [one for one in generations if not unsupported(one, quantization, LLAMA)]
    assert going == generations[generations.index(least) :]


@pytest.mark.parametrize("capability", ["10.0", "10.3"])
def test_what_the_builder_refuses_on_data_centre_blackwell_is_refused_before(
    capability: str,
) -> None:
    for quantization in ("int8_wo", "int8_sq", "int4_awq", "w4a8_awq"):
        assert unsupported(capability, quantization, LLAMA, gpu="b200-sxm") == (
            f"{quantization} is not compiled for such GPUs; on b200-sxm fp8 or nvfp4 go"
        )
    assert not any(unsupported(capability, name, LLAMA) for name in ("", "fp8", "nvfp4"))


def test_what_a_gpu_is_too_old_for_is_answered_with_newer_ones_and_with_what_goes() -> None:
    assert unsupported("8.0", "fp8", LLAMA, gpu="a100-sxm-80gb") == (
        "fp8 needs an L4, L40S, H100 or newer; on a100-sxm-80gb int8_wo, int8_sq or int4_awq go"
    )
    assert unsupported("9.0", "nvfp4") == (
        "nvfp4 needs a B200 or newer; "
        "on compute capability 9.0 fp8, int8_wo, int8_sq, int4_awq or w4a8_awq go"
    )


def test_gpus_that_no_engine_is_compiled_for_are_left_to_torch() -> None:
    assert unsupported("7.5", gpu="t4") == (
        "TensorRT-LLM needs an A30, A100, L4 or newer; "
        "on t4 only the torch back end serves, without quantization"
    )


def test_nvfp4_goes_with_some_architectures_only() -> None:
    assert unsupported("10.0", "nvfp4", "MixtralForCausalLM") == ""
    assert unsupported("10.0", "nvfp4", "Qwen2ForCausalLM", gpu="b200-sxm") == (
        "nvfp4 goes with LlamaForCausalLM or MixtralForCausalLM only, not with Qwen2ForCausalLM; "
        "on b200-sxm fp8 go"
    )


def test_what_is_not_known_is_not_judged() -> None:
    assert unsupported("", "nvfp4", "Qwen2ForCausalLM") == ""
    assert unsupported("10.0", "nvfp4", "") == ""


@pytest.mark.parametrize(
    ("gpu_type", "capability"),
    [
        ("t4", "7.5"),
        ("v100-sxm-16gb", "7.0"),
        ("a100-sxm-80gb", "8.0"),
        ("a100", "8.0"),
        ("a10", "8.6"),
        ("l40s", "8.9"),
        ("rtx-4090", "8.9"),
        ("h100-nvl", "9.0"),
        ("h200-sxm", "9.0"),
        ("gh200-96gb", "9.0"),
        ("b200-sxm", "10.0"),
        ("b300-sxm", "10.3"),
        ("rtx-pro-6000-blackwell-server-edition", "12.0"),
        ("cpu", ""),
        ("made-up", ""),
        ("l4000", ""),
    ],
)
def test_the_generation_follows_from_the_model(gpu_type: str, capability: str) -> None:
    assert capability_of(gpu_type) == capability
