"""Checkpoints that cannot be served: each is told what is wrong, and nothing hangs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.checkpoints import make_checkpoint
from tests.e2e.stack import Stack, ok, wait_for


def remove_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def remove_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def remove_tokenizer(directory: Path) -> None:
    for path in directory.glob("tokenizer*"):
        path.unlink()


def truncate_weights(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def break_header(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(b"\xff" * 16 + weights.read_bytes()[16:])


def only_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def lose_a_shard(directory: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def break_config(directory: Path) -> None:
    (directory / "config.json").write_text("{ not json")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (remove_config, "config.json"),
        (remove_weights, "safetensors"),
        (remove_tokenizer, "tokenizer"),
        (truncate_weights, "model.safetensors"),
        (break_header, "model.safetensors"),
        (only_pickle, "pytorch_model.bin"),
        (lose_a_shard, "model-00002-of-00002.safetensors"),
        (break_config, "config.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused_at_once_naming_the_file(
    stack: Stack, tmp_path: Path, damage: Callable[[Path], None], named: str
) -> None:
    directory = make_checkpoint(tmp_path / "model")
    damage(directory)

    with stack.client() as client:
        answer = client.post("/v0/checkpoints", json={"name": "bad", "uri": directory.as_uri()})

    assert answer.status_code == 422
    assert named in answer.json()["detail"]


def test_a_wrong_hash_fails_the_checkpoint_and_the_endpoint_that_waits_for_it(
    stack: Stack, tmp_path: Path
) -> None:
    directory = make_checkpoint(tmp_path / "model")
    body = {"name": "bad", "uri": directory.as_uri(), "sha256": {"config.json": "0" * 64}}

    created = stack.post("/v0/checkpoints", body)

    path = f"/v0/checkpoints/{created['checkpoint_id']}"
    failed = wait_for("it to fail", lambda: _failed(stack, path))
    assert "config.json" in failed


def _failed(stack: Stack, path: str) -> str:
    found = stack.get(path)
    return str(found["status_reason"]) if found["status"] == "failed" else ""


def test_an_unknown_architecture_fails_the_endpoint_with_the_reason(
    stack: Stack, tmp_path: Path
) -> None:
    directory = make_checkpoint(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config |= {"architectures": ["HoverTrainForCausalLM"], "model_type": "hover_train"}
    (directory / "config.json").write_text(json.dumps(config))
    with stack.client() as client:
        answer = client.post("/v0/checkpoints", json={"name": "x", "uri": directory.as_uri()})
    if answer.status_code == 422:
        assert "hover" in answer.text.lower()
        return
    checkpoint = ok(answer)
    endpoint = stack.post(
        "/v0/dedicated_endpoints", {"name": "x", "checkpoint_id": checkpoint["checkpoint_id"]}
    )

    failed = stack.until(endpoint["endpoint_id"], "failed")

    assert "hover" in failed["status_reason"].lower()
    refused = stack.chat(failed["routing_key"], "hello")
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "endpoint_failed"
    stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")


def test_without_a_chat_template_chat_is_refused_and_completions_work(
    stack: Stack, tmp_path: Path
) -> None:
    directory = make_checkpoint(tmp_path / "model", chat_template=None)
    endpoint = stack.deploy(stack.register(directory)["checkpoint_id"], "no-template")
    key = endpoint["routing_key"]

    chat = stack.chat(key, "hello")
    with stack.client() as client:
        completion = client.post(
            "/v1/completions", json={"model": key, "prompt": "hello", "max_tokens": 4}
        )

    assert chat.status_code == 400
    assert chat.json()["error"]["code"] == "no_chat_template"
    assert completion.status_code == 200
    stack.delete(f"/v0/dedicated_endpoints/{endpoint['endpoint_id']}")


def test_links_are_followed_as_in_a_hugging_face_cache(stack: Stack, tmp_path: Path) -> None:
    blobs = make_checkpoint(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)

    checkpoint = stack.register(snapshot, "linked")

    assert checkpoint["status"] == "registered"
    copy = stack.directory / "artifacts" / "checkpoints" / checkpoint["checkpoint_id"]
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    stack.delete(f"/v0/checkpoints/{checkpoint['checkpoint_id']}")
    shutil.rmtree(snapshot)
