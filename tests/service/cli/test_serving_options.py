"""`shed` on how a model is served."""

import pytest
from tests.service.cli.stand_in import Platform, shed
from tests.service.cli.test_scaling import endpoint

OPTIONS = {
    "--max-context": ("max_context", 4096),
    "--precision": ("precision", "bfloat16"),
    "--quantization": ("quantization", "fp8"),
    "--max-batch-size": ("max_batch_size", 16),
    "--max-batch-tokens": ("max_batch_tokens", 2048),
    "--kv-cache-fraction": ("kv_cache_fraction", 0.5),
}


@pytest.mark.parametrize("command", [["deploy"], ["endpoints", "update"]])
def test_all_that_is_said_of_serving_is_asked_for(platform: Platform, command: list[str]) -> None:
    platform.body = endpoint()
    said = [word for name, (_, value) in OPTIONS.items() for word in (name, str(value))]
    done = shed(platform, *command, "ep_01HZZZZZZZZZZZZZZZZZZZZZZZ", *said)
    assert done.returncode == 0, done.stderr
    assert platform.asked[-1][2]["serving"] == dict(OPTIONS.values())


def test_what_is_not_said_is_not_changed(platform: Platform) -> None:
    platform.body = endpoint()
    reference = "ep_01HZZZZZZZZZZZZZZZZZZZZZZZ"
    done = shed(platform, "endpoints", "update", reference, "--kv-cache-fraction", "0.5")
    assert done.returncode == 0, done.stderr
    assert platform.asked[-1][2] == {"serving": {"kv_cache_fraction": 0.5}}


@pytest.mark.parametrize("option", [["--kv-cache-fraction", "1.5"], ["--max-batch-size", "4097"]])
def test_what_no_engine_can_do_is_refused_by_its_option(
    platform: Platform, option: list[str]
) -> None:
    done = shed(platform, "deploy", "acme/bot", *option)
    assert done.returncode == 2
    assert option[0] in done.stderr
    assert platform.asked == []
