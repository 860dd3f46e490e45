import json
from pathlib import Path

import pytest

from engineshed.replica.spec import SpecError, max_requests, read_spec

NEEDED = {
    "replicaId": "rep_01",
    "routingKey": "key",
    "secret": "s",
    "modelRepository": "/models",
    "engineDirectory": "/engine",
}


def write(folder: Path, **fields: object) -> Path:
    (folder / "spec.json").write_text(json.dumps({**NEEDED, **fields}))
    return folder


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path))

    assert spec.listen_host == "127.0.0.1"
    assert spec.log_level == "info"
    assert spec.triton_directory == str(tmp_path / "triton")


def test_what_a_newer_agent_says_is_left_alone(tmp_path: Path) -> None:
    assert read_spec(write(tmp_path, fromTheFuture=1)).replica_id == "rep_01"


def test_what_is_needed_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="secret"):
        read_spec(write(tmp_path, secret=""))
    with pytest.raises(SpecError, match=r"spec\.json"):
        read_spec(tmp_path / "nowhere")


def test_twice_what_the_engine_works_on_is_admitted_and_at_least_32(tmp_path: Path) -> None:
    assert max_requests(read_spec(write(tmp_path)), max_concurrent=4) == 32
    assert max_requests(read_spec(write(tmp_path)), max_concurrent=32) == 64
    assert max_requests(read_spec(write(tmp_path, maxRequests=5)), max_concurrent=32) == 5
