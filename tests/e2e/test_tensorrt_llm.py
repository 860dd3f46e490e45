"""From a checkpoint to streamed tokens by way of TensorRT-LLM, whose image is a stand-in.

Everything else is real: the services, the agent's builds and their watch, Triton, the front. The
stand-in takes what NVIDIA's programs take, writes what they write, and fails as it is ordered to.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e.checkpoints import make_checkpoint
from tests.e2e.stack import Json, Stack, ok, running, wait_for
from tests.standins.tensorrt_llm import H100, TEXTS, StandInImage, make_image

GPU_TYPE = "h100-sxm"
SERVING = {"max_context": 128, "precision": "bfloat16"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> StandInImage:
    return make_image(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture(scope="module")
def gpu_stack(image: StandInImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    texts = tmp_path_factory.mktemp("calibration")
    (texts / "train.jsonl").write_text('{"text": "An engine shed is where engines are kept."}\n')
    environment = image.environment([H100] * 4) | {
        "ENGINESHED_CALIBRATION_DIR": str(texts),
        "ENGINESHED_BUILD_STALL_S": "4",
    }
    with running(tmp_path_factory.mktemp("gpus") / "state", environment=environment) as stack:
        yield stack


@pytest.fixture(autouse=True)
def as_it_should(image: StandInImage) -> Iterator[None]:
    """Take back what a test has ordered."""
    yield
    (image.folder / "orders.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def checkpoint(gpu_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Json:
    folder = make_checkpoint(tmp_path_factory.mktemp("qwen2") / "model", "qwen2")
    return gpu_stack.register(folder, "qwen2")


@pytest.fixture(scope="module")
def endpoint(gpu_stack: Stack, checkpoint: Json) -> Json:
    return deploy(gpu_stack, checkpoint, "plain")


def deploy(stack: Stack, checkpoint: Json, name: str, **more: Any) -> Json:
    serving = SERVING | more.pop("serving", {})
    return stack.deploy(
        checkpoint["checkpoint_id"], name, gpu_type=GPU_TYPE, serving=serving, **more
    )


def events_of(stack: Stack, endpoint: Json, kind: str) -> list[Json]:
    found = stack.get(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}/events")["data"]
    return [event for event in found if event["name"] == kind]


def logs_of(stack: Stack, endpoint: Json) -> str:
    found = stack.get(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}/logs?limit=1000")
    return "\n".join(line["line"] for line in reversed(found["data"]))


def streamed(stack: Stack, model: str, **more: Any) -> list[Json]:
    """Return the chunks of a stream that ended as it should."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "stream": True,
        **more,
    }
    with stack.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as got:
        lines = [line for line in got.iter_lines() if line]
        assert got.status_code == 200, lines
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(chunks: list[Json]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_an_engine_is_built_from_the_checkpoint_and_streams(
    gpu_stack: Stack, endpoint: Json
) -> None:
    (replica,) = endpoint["replicas"]
    assert (replica["engine_backend"], replica["engine_kind"]) == ("tensorrt_llm", "tensorrt")

    chunks = streamed(gpu_stack, endpoint["routing_key"], max_tokens=20)
    whole = ok(gpu_stack.chat(endpoint["routing_key"], "hello", max_tokens=20))

    assert len(chunks) > 5, "they come as they are made"
    assert text_of(chunks) == whole["choices"][0]["message"]["content"] != ""
    assert whole["usage"]["completion_tokens"] == 20
    assert whole["system_fingerprint"].removeprefix("fp_") in replica["engine_digest"]


def test_its_log_says_how_it_was_built(gpu_stack: Stack, endpoint: Json) -> None:
    said = wait_for(
        "the log of the build",
        lambda: text if "trtllm-build" in (text := logs_of(gpu_stack, endpoint)) else None,
    )
    assert "convert_checkpoint.py" in said
    assert "--max_seq_len 128" in said


def test_answers_are_held_to_a_schema(gpu_stack: Stack, endpoint: Json) -> None:
    schema = {
        "type": "object",
        "properties": {"engine": {"type": "string"}, "wheels": {"type": "integer"}},
        "required": ["engine", "wheels"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "engine", "schema": schema}}

    chunks = streamed(gpu_stack, endpoint["routing_key"], response_format=form, max_tokens=100)

    assert set(json.loads(text_of(chunks))) == {"engine", "wheels"}


def test_log_probabilities_come_with_the_tokens(gpu_stack: Stack, endpoint: Json) -> None:
    whole = ok(gpu_stack.chat(endpoint["routing_key"], "hello", max_tokens=5, logprobs=True))

    tokens = whole["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 5
    assert all(token["logprob"] <= 0 for token in tokens)


def test_another_replica_never_builds_again(gpu_stack: Stack, checkpoint: Json) -> None:
    """The engine of `endpoint`, for the same GPU and the same parameters."""
    first = deploy(gpu_stack, checkpoint, "first")
    second = deploy(gpu_stack, checkpoint, "second")
    try:
        digests = {one["replicas"][0]["engine_digest"] for one in (first, second)}
        assert len(digests) == 1
        assert "trtllm-build" not in logs_of(gpu_stack, second)
        assert not events_of(gpu_stack, second, "ReplicaBuilding")
    finally:
        for one in (first, second):
            gpu_stack.delete(f"/v0/dedicated_endpoints/{one['endpoint_id']}")


def test_a_model_on_two_gpus_is_served_by_a_process_for_each(
    gpu_stack: Stack, checkpoint: Json
) -> None:
    endpoint = deploy(gpu_stack, checkpoint, "parallel", gpu_count=2)
    try:
        replica_id = endpoint["replicas"][0]["replica_id"]
        ranks = [one for one in gpu_stack.processes() if one.name() == "tritonserver"]
        servers = [one for one in ranks if replica_id in command(one)]
        assert len(servers) == 2
        assert text_of(streamed(gpu_stack, endpoint["routing_key"], max_tokens=5))
    finally:
        gpu_stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")
    for server in servers:
        server.wait(timeout=30)


def test_quantization_is_calibrated_with_the_operators_texts(
    gpu_stack: Stack, checkpoint: Json
) -> None:
    endpoint = deploy(gpu_stack, checkpoint, "fp8", serving={"quantization": "fp8"})
    try:
        assert "--qformat fp8" in logs_of(gpu_stack, endpoint)
        assert text_of(streamed(gpu_stack, endpoint["routing_key"], max_tokens=5))
    finally:
        gpu_stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")


def test_a_build_that_was_killed_is_tried_again(
    gpu_stack: Stack, checkpoint: Json, image: StandInImage
) -> None:
    image.order("build", oom=True, once=True)
    endpoint = deploy(gpu_stack, checkpoint, "again", serving={"max_context": 112})
    try:
        (failed,) = events_of(gpu_stack, endpoint, "ReplicaFailed")
        assert (failed["data"]["code"], failed["data"]["retryable"]) == ("BUILD_OOM_HOST", True)
        assert text_of(streamed(gpu_stack, endpoint["routing_key"], max_tokens=5))
    finally:
        gpu_stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")


def test_what_has_no_class_that_compiles_goes_by_pytorch_and_says_so(
    gpu_stack: Stack, tmp_path: Path
) -> None:
    """The LLM API takes an architecture that TensorRT has no class for."""
    folder = make_checkpoint(tmp_path / "model", "gpt_oss")
    checkpoint = gpu_stack.register(folder, "gpt-oss")
    endpoint = deploy(gpu_stack, checkpoint, "llmapi")
    try:
        (replica,) = endpoint["replicas"]
        assert (replica["engine_backend"], replica["engine_kind"]) == ("tensorrt_llm", "pytorch")
        whole = ok(gpu_stack.chat(endpoint["routing_key"], "hello", max_tokens=8))
        streamed_text = text_of(streamed(gpu_stack, endpoint["routing_key"], max_tokens=8))
        assert streamed_text == whole["choices"][0]["message"]["content"] != ""
        refused = gpu_stack.chat(endpoint["routing_key"], "hello", logprobs=True)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")
    finally:
        gpu_stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")


@pytest.mark.parametrize(
    ("step", "order", "code"),
    [
        ("convert", {"text": TEXTS["unsupported_sm"], "exit": 1}, "UNSUPPORTED_SM"),
        ("build", {"hang": True, "child": True}, "BUILD_STALLED"),
        ("build", {"oom": True}, "BUILD_OOM_HOST"),
        ("build", {"gpu_oom": True}, "BUILD_OOM_GPU"),
        ("build", {"crash": "SIGSEGV"}, "BUILD_CRASHED"),
        ("build", {"truncate": "missing"}, "ENGINE_INCOMPLETE"),
        ("build", {"limits": {"max_seq_len": 64}}, "LIMITS_DIFFER"),
        ("load", {"gpu_oom": True}, "OOM_AT_LOAD"),
        ("load", {"text": TEXTS["wrong_gpu"], "exit": 1}, "ENGINE_WRONG_GPU"),
        ("load", {"crash": "SIGSEGV"}, "CRASH_AT_LOAD"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_fails_is_told_by_its_code_and_leaves_nothing(
    gpu_stack: Stack, checkpoint: Json, image: StandInImage, step: str, order: Json, code: str
) -> None:
    image.order(step, **order)
    body = {
        "name": code.lower(),
        "checkpoint_id": checkpoint["checkpoint_id"],
        "gpu_type": GPU_TYPE,
        "serving": SERVING | {"max_context": 96},  # an engine of its own: it must be built
    }
    endpoint = gpu_stack.post("/v0/dedicated_endpoints", body)
    try:
        (failed, *_) = wait_for(
            "a failed replica", lambda: events_of(gpu_stack, endpoint, "ReplicaFailed")
        )
        assert failed["data"]["code"] == code
        assert failed["data"]["reason"]
    finally:
        gpu_stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")
    gpu_stack.until(endpoint["endpoint_id"], "terminated")
    left = [one for one in gpu_stack.processes() if failed["data"]["replica_id"] in command(one)]
    assert left == []


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
