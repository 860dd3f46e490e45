from pathlib import Path

from google.protobuf import json_format

from engineshed.api.replica.v1.replica_service_pb2 import Phase, ReplicaState
from engineshed.replica.status import FILE_NAME, Status


def read(folder: Path) -> ReplicaState:
    return json_format.Parse((folder / FILE_NAME).read_text(), ReplicaState())


def test_every_change_is_in_the_file(tmp_path: Path) -> None:
    status = Status(tmp_path, "rep_01")
    assert read(tmp_path) == status.state

    status.change(phase=Phase.PHASE_READY, http_url="http://127.0.0.1:1")

    assert read(tmp_path) == status.state
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_a_change_that_cannot_be_written_is_made_all_the_same(tmp_path: Path) -> None:
    status = Status(tmp_path, "rep_01")
    (tmp_path / FILE_NAME).with_suffix(".new").mkdir()  # in the way of the next version

    status.change(phase=Phase.PHASE_DRAINING)

    assert status.state.phase == Phase.PHASE_DRAINING
    assert read(tmp_path).phase == Phase.PHASE_LOADING
