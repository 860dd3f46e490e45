"""What a replica tells of itself, and the file status.json that keeps it for its agent."""

import os
from pathlib import Path
from typing import Any, Final

import structlog
from google.protobuf import json_format

from engineshed.api.replica.v1.replica_service_pb2 import Phase, ReplicaState
from engineshed.processes import identify

FILE_NAME: Final = "status.json"

log = structlog.get_logger()


class Status:
    """The replica's state; every change goes to the file, which is always whole.

    A change that cannot be written, as on a full disk, ends nothing: a replica that serves goes on.
    """

    def __init__(self, directory: Path, replica_id: str) -> None:
        self._path = directory / FILE_NAME
        me = identify(os.getpid())
        self.state = ReplicaState(
            replica_id=replica_id,
            phase=Phase.PHASE_LOADING,
            pid=me.pid,
            process_start=me.start_ticks,
            boot_id=me.boot_id,
        )
        self._write()

    def change(self, **fields: Any) -> None:  # noqa: ANN401 - fields of a protobuf message
        """Set fields of the state and write it."""
        before = self.state.phase
        for name, value in fields.items():
            setattr(self.state, name, value)
        if self.state.phase != before:
            log.info(
                "phase",
                phase=Phase.Name(self.state.phase),
                code=self.state.code,
                reason=self.state.reason,
            )
        try:
            self._write()
        except OSError as error:  # what asks over gRPC hears it all the same
            log.warning("status_unwritten", reason=str(error))

    def progress(self, fraction: float, message: str) -> None:
        """Tell how far loading has come."""
        log.info("progress", fraction=fraction, message=message)
        self.change(progress=fraction, progress_message=message)

    def _write(self) -> None:
        scratch = self._path.with_suffix(".new")
        scratch.write_text(
            json_format.MessageToJson(self.state, preserving_proto_field_name=True),
            encoding="utf-8",
        )
        scratch.replace(self._path)
