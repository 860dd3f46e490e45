"""`shed estimate`: whether a model fits, for people and for scripts."""

import json
from typing import Any

from tests.service.cli.stand_in import Platform, refusal, shed

GIB = 2**30
SERVING = {
    "max_context": None,
    "precision": None,
    "quantization": None,
    "max_batch_size": None,
    "max_batch_tokens": None,
    "kv_cache_fraction": None,
}


def estimate(**changes: Any) -> dict[str, Any]:
    return {
        "gpu_type": "a10",
        "gpu_count": 1,
        "parallel": 1,
        "serving": SERVING,
        "fits": True,
        "measured": False,
        "gpu_memory_bytes": 22 * GIB,
        "needed_bytes": 17 * GIB,
        "weight_bytes": 15 * GIB,
        "activation_bytes": GIB,
        "reserved_bytes": GIB // 2,
        "token_bytes": 131072,
        "needed_context": 2048,
        "max_tokens": 41_952,
        **changes,
    }


def test_what_fits_is_told_with_its_numbers(platform: Platform) -> None:
    platform.body = estimate(alternatives=[])
    done = shed(platform, "estimate", "acme/bot", "--gpu-type", "a10", "--max-context", "2048")
    assert done.returncode == 0, done.stderr
    assert "it fits on 1x a10: each GPU needs about 17.0 GiB of 22.0 GiB, as est" in done.stdout
    assert "128 KiB" in done.stdout
    assert "41,952 tokens" in done.stdout
    assert platform.asked == [
        (
            "POST",
            "/v0/dedicated_endpoints:estimate",
            {"gpu_type": "a10", "model_name": "acme/bot", "serving": {"max_context": 2048}},
        )
    ]


def test_what_was_measured_is_told_so(platform: Platform) -> None:
    platform.body = estimate(
        measured=True, activation_bytes=2 * GIB, reserved_bytes=0, alternatives=[]
    )
    done = shed(platform, "estimate", "acme/bot")
    assert "17.0 GiB of 22.0 GiB, by what was measured" in done.stdout
    assert "weights and engine  17.0 GiB, measured" in done.stdout
    assert "CUDA" not in done.stdout


def test_all_that_can_be_said_of_serving_is_asked_about(platform: Platform) -> None:
    platform.body = estimate(alternatives=[])
    serving = {
        "max_context": 4096,
        "precision": "bfloat16",
        "quantization": "fp8",
        "max_batch_size": 16,
        "max_batch_tokens": 2048,
        "kv_cache_fraction": 0.5,
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in serving.items()]
    assert shed(platform, "estimate", "acme/bot", *options).returncode == 0
    assert platform.asked[0][2]["serving"] == serving


def test_what_does_not_fit_ends_with_1_and_says_what_would(platform: Platform) -> None:
    shorter = estimate(serving=SERVING | {"max_context": 41_952, "kv_cache_fraction": 0.9})
    wider = estimate(gpu_count=2, parallel=2, needed_bytes=16 * GIB)
    platform.body = estimate(fits=False, needed_bytes=30 * GIB, alternatives=[shorter, wider])
    done = shed(platform, "estimate", "ckpt_01HZZZZZZZZZZZZZZZZZZZZZZZ")
    assert done.returncode == 1
    assert "it does not fit on 1x a10" in done.stdout
    assert "it fits with --max-context 41952 --kv-cache-fraction 0.9: 17.0 GiB" in done.stdout
    assert "it fits with --gpus 2: 16.0 GiB" in done.stdout
    assert platform.asked[0][2]["checkpoint_id"] == "ckpt_01HZZZZZZZZZZZZZZZZZZZZZZZ"


def test_scripts_get_json(platform: Platform) -> None:
    platform.body = estimate(fits=False, alternatives=[])
    done = shed(platform, "estimate", "acme/bot", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == platform.body


def test_a_refusal_is_told_as_it_is(platform: Platform) -> None:
    platform.status = 409
    platform.body = {"reason": "SHAPE_UNKNOWN", "detail": "too little is known"}
    assert "too little is known" in refusal(shed(platform, "estimate", "acme/bot"))
