"""What no engine is built for is refused before anything runs."""

import pytest

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.errors import InvalidFieldError
from engineshed.scheduler.domain.memory import Hardware
from engineshed.scheduler.domain.replica import Serving
from engineshed.scheduler.domain.support import require_supported

QWEN = Checkpoint(checkpoint_id="ckpt_1", architecture="Qwen2ForCausalLM")
BOTH = frozenset({"tensorrt_llm", "torch"})
COMPILED = frozenset({"tensorrt_llm"})
TORCH = frozenset({"torch"})


def hardware(gpu_type: str, backends: frozenset[str] = BOTH) -> Hardware:
    return Hardware(gpu_type, 1, 0, (1,), backends)


def test_a_quantization_that_the_gpus_are_too_old_for_is_refused_with_those_that_go() -> None:
    with pytest.raises(InvalidFieldError) as refused:
        require_supported(QWEN, Serving(quantization="fp8"), hardware("a100-sxm-80gb"))
    (field,) = refused.value.fields
    assert field.field == "serving.quantization"
    assert field.message == (
        "fp8 needs an L4, L40S, H100 or newer; on a100-sxm-80gb int8_wo, int8_sq or int4_awq go"
    )


def test_a_quantization_that_the_architecture_lacks_is_refused() -> None:
    require_supported(Checkpoint(), Serving(quantization="nvfp4"), hardware("b200-sxm"))
    with pytest.raises(InvalidFieldError, match="not with Qwen2ForCausalLM; on b200-sxm fp8"):
        require_supported(QWEN, Serving(quantization="nvfp4"), hardware("b200-sxm"))


def test_gpus_without_compiled_engines_are_refused_where_nothing_else_serves() -> None:
    require_supported(QWEN, Serving(), hardware("t4", BOTH))
    require_supported(QWEN, Serving(), hardware("t4", TORCH))
    with pytest.raises(InvalidFieldError) as refused:
        require_supported(QWEN, Serving(), hardware("t4", COMPILED))
    assert refused.value.fields[0].field == "gpu_type"


def test_what_goes_passes_and_so_do_gpus_that_nobody_knows() -> None:
    require_supported(QWEN, Serving(quantization="fp8"), hardware("h100-sxm", COMPILED))
    require_supported(QWEN, Serving(quantization="nvfp4"), hardware("made-up", COMPILED))
