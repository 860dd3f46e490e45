"""What has no room on its GPUs is refused with the numbers, and with what would fit."""

import pytest

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint, ModelShape
from engineshed.errors import Kind
from engineshed.fit import GIB, memory_of
from engineshed.scheduler.domain.errors import DoesNotFitError, ShapeUnknownError
from engineshed.scheduler.domain.memory import Hardware, estimated, require_fit
from engineshed.scheduler.domain.node import Inventory
from engineshed.scheduler.domain.replica import Serving

LLAMA_8B = Checkpoint(
    checkpoint_id="ckpt_1",
    parameter_count=8_030_261_248,
    max_position_embeddings=131_072,
    shape=ModelShape(
        quantizable_parameters=6_979_321_856,
        weight_bytes=16_060_522_496,
        attending_layers=32,
        kv_heads=8,
        head_dim=128,
        hidden_size=4096,
    ),
)


def hardware(gpu_type: str, gpu_count: int = 1, *, parallel: bool = True) -> Hardware:
    backends = frozenset({"tensorrt_llm", "torch"} if parallel else {"torch"})
    return Hardware(gpu_type, gpu_count, memory_of(gpu_type), (1, 2, 4, 8), backends)


def test_what_fits_passes() -> None:
    require_fit(LLAMA_8B, Serving(max_context=131_072), hardware("h100-sxm"))
    require_fit(LLAMA_8B, Serving(), hardware("a10"))


def test_what_does_not_fit_is_refused_with_its_numbers_and_the_ways_out() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        require_fit(LLAMA_8B, Serving(max_context=100_000), hardware("a10"))
    error = refused.value
    assert error.kind is Kind.INVALID
    assert error.message == (
        "the model does not fit: the a10 has 22.4 GiB; there the weights take 15.0 GiB, the engine "
        "and CUDA 1.7 GiB and each token 128 KiB, which leaves room for 41,952 of 100,000 tokens; "
        "it would fit with serving.max_context 41952, or with gpu_count 2, "
        "or with serving.quantization int4_awq"
    )
    assert [field.field for field in error.fields] == ["serving.max_context"]


def test_where_not_even_the_weights_fit_the_gpus_are_named() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        require_fit(LLAMA_8B, Serving(), hardware("t4", parallel=False))
    assert [field.field for field in refused.value.fields] == ["gpu_count"]
    assert refused.value.message.endswith("choose GPUs with more memory, or a smaller model")


def test_more_gpus_help_only_a_back_end_that_divides_a_model_among_them() -> None:
    serving = Serving(max_context=100_000)
    require_fit(LLAMA_8B, serving, hardware("a10", 2))
    with pytest.raises(DoesNotFitError):
        require_fit(LLAMA_8B, serving, hardware("a10", 2, parallel=False))


def test_what_is_not_known_is_not_refused_but_cannot_be_estimated() -> None:
    unknown = Checkpoint(checkpoint_id="ckpt_1", parameter_count=10**13)
    unheard_of = Hardware("t1000", 1, 0, (1,), frozenset({"tensorrt_llm"}))
    require_fit(unknown, Serving(), hardware("a10"))
    require_fit(LLAMA_8B, Serving(max_context=10**7), unheard_of)
    with pytest.raises(ShapeUnknownError, match=r"config\.json of checkpoint ckpt_1"):
        estimated(unknown, Serving(), hardware("a10"))
    with pytest.raises(ShapeUnknownError, match="the memory of a t1000 GPU"):
        estimated(LLAMA_8B, Serving(), unheard_of)


def test_what_was_measured_refuses_what_an_estimate_lets_pass() -> None:
    serving = Serving(max_context=30_000)
    require_fit(LLAMA_8B, serving, hardware("a10"))
    require_fit(LLAMA_8B, serving, hardware("a10"), 17 * GIB)
    with pytest.raises(DoesNotFitError) as refused:
        require_fit(LLAMA_8B, serving, hardware("a10"), 20 * GIB)
    assert refused.value.message == (
        "the model does not fit: the a10 has 22.4 GiB; there the engine with its weights was "
        "measured to take 20.0 GiB and each token 128 KiB, which leaves room for 17,312 of 30,000 "
        "tokens; it would fit with serving.max_context 17312, or with gpu_count 2, "
        "or with serving.quantization int8_wo"
    )


def test_a_small_pool_and_large_batches_are_named_as_ways_out() -> None:
    with pytest.raises(DoesNotFitError, match=r"serving\.kv_cache_fraction 0\.9, or"):
        require_fit(LLAMA_8B, Serving(max_context=30_000, kv_cache_fraction=0.3), hardware("a10"))
    with pytest.raises(DoesNotFitError, match=r"serving\.max_batch_tokens 8192, or"):
        require_fit(LLAMA_8B, Serving(max_context=30_000, max_batch_tokens=65_536), hardware("a10"))


def test_gpus_that_are_too_old_for_compiled_engines_share_no_model() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        require_fit(LLAMA_8B, Serving(), hardware("t4", 2))
    assert refused.value.message.endswith("choose GPUs with more memory, or a smaller model")


@pytest.mark.parametrize(
    ("inventory", "memory"),
    [
        (Inventory("host", "local", "h100-sxm", 8, 79 * 2**30), 79 * 2**30),
        (Inventory("host", "local", "h100-sxm", 8, 2**30, simulated=True), memory_of("h100-sxm")),
        (Inventory("host", "local", "made-up", 8, 2**30, simulated=True), 0),
        (Inventory("host", "local", "cpu", 8, 2**30), 0),
    ],
)
def test_simulated_gpus_count_as_what_they_stand_for(inventory: Inventory, memory: int) -> None:
    assert inventory.estimated_memory_bytes == memory
