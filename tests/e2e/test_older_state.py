"""A state directory that an older version has left, opened by this one.

`recorded/record.sh` made them, one for each version whose directories differ.
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import SAMPLE
from tests.e2e.stack import Json, Stack, running

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = sorted(archive.name.removesuffix(".tar.xz") for archive in RECORDED.glob("*.tar.xz"))


@pytest.fixture(scope="module", params=VERSIONS)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    state = tmp_path_factory.mktemp("older") / "state"
    with tarfile.open(RECORDED / f"{request.param}.tar.xz") as archive:
        archive.extractall(state, filter="data")
    put_weights_back(state)
    with running(state) as stack:
        yield stack


def put_weights_back(state: Path) -> None:
    """Complete the copies of the sample, which were recorded without what the package has."""
    for manifest in state.glob("artifacts/checkpoints/*/manifest.json"):
        listed = {file["path"]: file["sha256"] for file in json.loads(manifest.read_text())}
        here = SAMPLE / "model.safetensors"
        assert hashlib.sha256(here.read_bytes()).hexdigest() == listed["model.safetensors"], (
            "the sample was trained anew: record the older versions again, with their weights"
        )
        shutil.copy(here, manifest.parent)


def named(stack: Stack, name: str) -> Json:
    listed = stack.get("/v0/dedicated_endpoints")["data"]
    (found,) = [endpoint for endpoint in listed if endpoint["name"] == name]
    endpoint: Json = found
    return endpoint


def test_what_ran_runs_again_and_answers(stack: Stack) -> None:
    kept = stack.until(named(stack, "kept")["id"], "running")

    answer = stack.chat(kept["routing_key"], "What is an engine shed?").json()
    assert "locomotives" in answer["choices"][0]["message"]["content"]


def test_what_was_stopped_can_be_restarted_and_its_whole_history_is_there(stack: Stack) -> None:
    halted = named(stack, "halted")
    assert halted["status"] == "stopped"
    path = f"/v0/dedicated_endpoints/{halted['id']}"

    stack.post(f"{path}/restart")
    stack.until(halted["id"], "running")
    types = [event["type"].rpartition(".")[2] for event in stack.get(f"{path}/events")["data"]]
    assert types[0] == "EndpointCreated"
    assert types.count("ReplicaReady") == 2
    stack.post(f"{path}/stop")


def test_what_was_terminated_stays_so(stack: Stack) -> None:
    names = [one["name"] for one in stack.get("/v0/dedicated_endpoints")["data"]]
    assert sorted(names) == ["halted", "kept"]


def test_tokens_and_organizations_are_there(stack: Stack) -> None:
    reader = json.loads((stack.directory / "reader.json").read_text())
    with stack.client(reader["token"]) as client:
        answer = client.get("/v0/dedicated_endpoints")

    assert answer.status_code == 200
    assert answer.json()["data"] == []  # of its own organization
