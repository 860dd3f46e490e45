"""The log of a Triton: how it grows, and what it tells of a failure."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from engineshed.replica.failure import ReplicaFailedError
from engineshed.triton.failures import Diagnosis, diagnose, diagnosis_of

FILE_NAME: Final = "triton.log"

_MOST_BYTES: Final = 8 * 1024 * 1024
_EVIDENCE_BYTES: Final = 2000
_EVIDENCE_LINES: Final = 8
_TABLE: Final = ("|", "+")
"""What the lines begin with in which Triton lists its options: nobody looks for a cause there."""
_NO_CAUSE: Final = re.compile(
    r"(pinned|cuda)_memory_manager\.cc|CudaDriverHelper has not been initialized"
)
"""What Triton says of a host without GPUs: it serves all the same."""
_LOAD_FAILED: Final = "ENGINE_LOAD_FAILED"
_DIED: Final = "TRITON_DIED"
_SAY_LITTLE: Final = frozenset({"SERVE_FAILED", "CRASH_AT_LOAD", "LOAD_OOM_HOST", "MPI_ABORT"})
"""Codes that tell of a server that had served no more than that it ended."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TritonLog:
    """What one server has written so far."""

    path: Path
    start: int
    """Where in the file it begins: what is before is an earlier server's."""
    knows_texts: bool
    """Whether it is searched for the texts by which TensorRT-LLM's failures are known."""

    def size(self) -> int:
        """Return how much there is, in bytes."""
        return self.path.stat().st_size - self.start

    def load_failed(self, error: str, status: int | None = None) -> ReplicaFailedError:
        """Return why the engine could not be loaded.

        Args:
            error: what Triton answered.
            status: how the server ended, if it did.

        """
        if not self.knows_texts:
            return ReplicaFailedError(_LOAD_FAILED, error)
        lines = [*self._lines(), *error.splitlines()]
        return _told(diagnose(lines, phase="load", status=status))

    def stalled(self, seconds: float) -> ReplicaFailedError:
        """Return that loading stands still: nothing was written for so long."""
        cause = f"the engine is being loaded, and Triton has written nothing for {seconds:.0f} s"
        return _told(diagnosis_of("LOAD_STALLED", self._lines(), cause))

    def died(self, status: int | None, *, loading: bool) -> ReplicaFailedError:
        """Return why the server ended, whose exit status is known."""
        how = f"by signal {-status}" if status is not None and status < 0 else f"with {status}"
        if self.knows_texts and loading:
            return self.load_failed(f"Triton ended {how}", status)
        plain = f"Triton ended {how}; the end of its log: {self._tail()}"
        if self.knows_texts:
            diagnosis = diagnose(self._lines(), phase="serve", status=status)
            if diagnosis.code not in _SAY_LITTLE:
                return _told(diagnosis)
            log.error("triton_died", evidence=diagnosis.evidence)
        return ReplicaFailedError(_DIED, plain)

    def _lines(self) -> list[str]:
        return [line for line in self._end(_MOST_BYTES) if not _NO_CAUSE.search(line)]

    def _tail(self) -> str:
        return "\n".join(self._end(_EVIDENCE_BYTES)[-_EVIDENCE_LINES:])

    def _end(self, most: int) -> list[str]:
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self.start, size - most))
            lines = file.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip() and not line.startswith(_TABLE)]


def _told(diagnosis: Diagnosis) -> ReplicaFailedError:
    log.error("engine_failed", code=diagnosis.code, evidence=diagnosis.evidence)
    return ReplicaFailedError(diagnosis.code, diagnosis.message, retryable=diagnosis.retryable)
