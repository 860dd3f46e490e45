"""Fit: worked examples to one percent, and what must hold of any model."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineshed.fit import GIB, ModelShape, Plan, estimate, memory_of, nearest_fits

GB = 10**9

LLAMA_8B = ModelShape(
    parameters=8_030_261_248,
    quantizable=6_979_321_856,
    weight_bytes=16_060_522_496,
    layers=32,
    kv_heads=8,
    head_dim=128,
    latent=0,
    hidden=4096,
    experts=0,
    max_context=131_072,
)
GPT_OSS_20B = ModelShape(
    parameters=20_900_000_000,
    quantizable=19_000_000_000,
    weight_bytes=int(12.8 * GIB),
    layers=24,
    kv_heads=8,
    head_dim=64,
    latent=0,
    hidden=2880,
    experts=32,
    max_context=131_072,
)


def test_llama_8b_in_half_precision_on_an_h100() -> None:
    found = estimate(LLAMA_8B, Plan(memory_of("h100-sxm"), precision="bfloat16"))
    assert found.weight_bytes == pytest.approx(14.96 * GIB, rel=0.01)
    assert found.token_bytes == 131_072
    assert found.max_tokens == pytest.approx(464_000, rel=0.01)


def test_llama_8b_in_fp8_on_an_h100() -> None:
    found = estimate(LLAMA_8B, Plan(memory_of("h100-sxm"), quantization="fp8"))
    assert found.weight_bytes == pytest.approx(8.46 * GIB, rel=0.01)
    assert found.token_bytes == 65_536
    assert found.max_tokens == pytest.approx(1_024_000, rel=0.01)


@pytest.mark.parametrize(("gpu_type", "tokens"), [("l40s", 207_000), ("a10", 42_000)])
def test_llama_8b_on_smaller_gpus(gpu_type: str, tokens: int) -> None:
    found = estimate(LLAMA_8B, Plan(memory_of(gpu_type), precision="bfloat16"))
    assert found.max_tokens == pytest.approx(tokens, rel=0.01)


def test_gpt_oss_20b_as_it_is_stored_on_24_gigabytes() -> None:
    found = estimate(GPT_OSS_20B, Plan(24 * GB))
    assert found.token_bytes == 49_152
    assert found.max_tokens == pytest.approx(148_000, rel=0.01)


def test_what_does_not_fit_has_near_neighbours_that_do() -> None:
    plan = Plan(memory_of("a10"), precision="bfloat16", max_context=100_000)
    assert not estimate(LLAMA_8B, plan).fits
    shorter, wider, narrower = nearest_fits(LLAMA_8B, plan, [1, 2, 4], ["fp8", "int4_awq"])
    assert 40_000 < shorter.plan.max_context < 43_000
    assert (wider.plan.gpu_count, wider.plan.max_context) == (2, 100_000)
    assert narrower.plan.quantization == "fp8"
    assert all(found.fits for found in (shorter, wider, narrower))


def test_where_one_change_is_not_enough_two_are_tried() -> None:
    large = replace(LLAMA_8B, parameters=70 * GB, quantizable=68 * GB, weight_bytes=140 * GB)
    plan = Plan(memory_of("a10"), precision="bfloat16", max_context=4096)
    (found,) = nearest_fits(large, plan, [1, 2, 4], ["fp8", "int4_awq"])
    assert (found.plan.gpu_count, found.plan.quantization) == (2, "int4_awq")


def test_where_nothing_fits_nothing_is_offered() -> None:
    huge = replace(LLAMA_8B, parameters=10**13, quantizable=10**13, weight_bytes=2 * 10**13)
    assert nearest_fits(huge, Plan(memory_of("a10")), [1, 8], ["int4_awq"]) == []


def test_without_a_context_asked_for_a_short_one_is_enough() -> None:
    found = estimate(LLAMA_8B, Plan(memory_of("a10"), precision="bfloat16"))
    assert found.needed_context == 2048
    assert found.fits


def test_work_space_grows_with_the_tokens_of_a_batch() -> None:
    plan = Plan(memory_of("h100-sxm"), precision="bfloat16")
    usual, half, double = (
        estimate(LLAMA_8B, replace(plan, max_batch_tokens=tokens)) for tokens in (0, 4096, 16_384)
    )
    assert half.activation_bytes * 2 == pytest.approx(usual.activation_bytes)
    assert double.activation_bytes == pytest.approx(2.4 * GIB)
    assert half.max_tokens > usual.max_tokens > double.max_tokens


def test_the_pool_takes_its_share_of_what_is_free() -> None:
    plan = Plan(memory_of("h100-sxm"), precision="bfloat16")
    usual, third = (estimate(LLAMA_8B, replace(plan, kv_cache_fraction=x)) for x in (0.0, 0.3))
    assert third.max_tokens * 3 == pytest.approx(usual.max_tokens, rel=0.01)


def test_a_pool_or_batches_of_other_than_the_usual_size_are_a_way_out() -> None:
    plan = Plan(memory_of("a10"), precision="bfloat16", max_context=30_000)
    small_pool = replace(plan, kv_cache_fraction=0.5)
    _, found, *_ = nearest_fits(LLAMA_8B, small_pool, [1], [])
    assert found.plan == replace(plan, kv_cache_fraction=0.9)
    large_batches = replace(plan, max_batch_tokens=32_768)
    _, found, *_ = nearest_fits(LLAMA_8B, large_batches, [1], [])
    assert found.plan == replace(plan, max_batch_tokens=8192)


def test_at_most_three_ways_out_are_named() -> None:
    plan = Plan(memory_of("a10"), 1, "bfloat16", "", 30_000, kv_cache_fraction=0.5)
    assert len(nearest_fits(LLAMA_8B, plan, [1, 2], ["int4_awq"])) == 3


def test_what_was_measured_counts_instead_of_what_would_be_estimated() -> None:
    plan = Plan(memory_of("a10"), precision="bfloat16", measured_bytes=20 * GIB)
    found = estimate(LLAMA_8B, plan)
    assert found.fixed_bytes == 20 * GIB
    assert found.max_tokens == pytest.approx(0.9 * (24 * GB - 20 * GIB) / 131_072, rel=0.01)
    assert estimate(LLAMA_8B, replace(plan, measured_bytes=GIB)).fixed_bytes == GIB


def test_what_was_measured_says_nothing_of_other_gpus_or_quantizations() -> None:
    plan = Plan(memory_of("a10"), 1, "bfloat16", "", 30_000, measured_bytes=20 * GIB)
    shorter, wider, narrower = nearest_fits(LLAMA_8B, plan, [1, 2], ["int4_awq"])
    assert shorter.plan.measured_bytes == 20 * GIB
    assert wider.plan.measured_bytes == narrower.plan.measured_bytes == 0


shapes = st.builds(
    lambda parameters, share, layers, heads, latent, hidden, experts: ModelShape(
        parameters=parameters,
        quantizable=int(parameters * share),
        weight_bytes=parameters * 2,
        layers=layers,
        kv_heads=heads,
        head_dim=128,
        latent=latent,
        hidden=hidden,
        experts=experts,
        max_context=8192,
    ),
    st.integers(1, 10**12),
    st.floats(0, 1),
    st.integers(1, 128),
    st.integers(1, 128),
    st.sampled_from([0, 0, 576]),
    st.integers(64, 16_384),
    st.sampled_from([0, 8]),
)
plans = st.builds(
    Plan,
    st.integers(1, 200 * GIB),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["", "float32", "bfloat16", "float16"]),
    st.sampled_from(["", "fp8", "int8_wo", "int4_awq", "nvfp4"]),
    st.integers(0, 200_000),
    st.integers(0, 100_000),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.sampled_from([0, 0, GIB, 20 * GIB]),
)


@given(shapes, plans, st.integers(1, 100_000))
def test_a_longer_context_never_fits_where_a_shorter_one_does_not(
    shape: ModelShape, plan: Plan, more: int
) -> None:
    plan = replace(plan, max_context=max(1, plan.max_context))
    longer = estimate(shape, replace(plan, max_context=plan.max_context + more))
    assert longer.needed_bytes >= estimate(shape, plan).needed_bytes
    assert estimate(shape, plan).fits or not longer.fits


@given(shapes, plans)
def test_more_gpus_never_hold_less(shape: ModelShape, plan: Plan) -> None:
    one, two = (estimate(shape, replace(plan, gpu_count=count)) for count in (1, 2))
    assert two.weight_bytes <= one.weight_bytes
    assert two.token_bytes <= one.token_bytes
    assert two.max_tokens >= one.max_tokens


@given(shapes, plans, st.integers(1, 100_000))
def test_more_tokens_in_a_batch_never_leave_more_room(
    shape: ModelShape, plan: Plan, more: int
) -> None:
    fewer = replace(plan, max_batch_tokens=max(1, plan.max_batch_tokens))
    larger = estimate(shape, replace(fewer, max_batch_tokens=fewer.max_batch_tokens + more))
    assert larger.needed_bytes >= estimate(shape, fewer).needed_bytes
    assert larger.max_tokens <= estimate(shape, fewer).max_tokens


@given(shapes, plans, st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_larger_share_of_the_pool_never_holds_less(
    shape: ModelShape, plan: Plan, one: float, other: float
) -> None:
    small, large = (
        estimate(shape, replace(plan, kv_cache_fraction=share)) for share in sorted([one, other])
    )
    assert large.max_tokens >= small.max_tokens
    assert large.needed_bytes <= small.needed_bytes


@given(shapes, plans, st.integers(0, 100 * GIB))
def test_more_memory_never_holds_less(shape: ModelShape, plan: Plan, more: int) -> None:
    larger = replace(plan, gpu_memory_bytes=plan.gpu_memory_bytes + more)
    assert estimate(shape, larger).max_tokens >= estimate(shape, plan).max_tokens


@given(shapes, plans)
def test_what_it_needs_at_least_is_where_it_begins_to_fit(shape: ModelShape, plan: Plan) -> None:
    needed = estimate(shape, plan).needed_bytes
    blocks = 2 * estimate(shape, plan).token_bytes * 32
    room = int(blocks / (plan.kv_cache_fraction or 0.9))
    assert estimate(shape, replace(plan, gpu_memory_bytes=needed + room)).fits
    assert not estimate(shape, replace(plan, gpu_memory_bytes=max(1, needed - room))).fits


@given(shapes, plans)
def test_quantization_never_takes_more(shape: ModelShape, plan: Plan) -> None:
    wide = estimate(shape, replace(plan, precision="bfloat16", quantization=""))
    narrow = estimate(shape, replace(plan, precision="bfloat16", quantization="int4_awq"))
    assert narrow.weight_bytes <= wide.weight_bytes
    assert narrow.max_tokens >= wide.max_tokens


@given(shapes, plans)
def test_all_that_is_offered_fits(shape: ModelShape, plan: Plan) -> None:
    for found in nearest_fits(shape, plan, [1, 2, 4, 8], ["fp8", "int4_awq"]):
        assert found.fits
