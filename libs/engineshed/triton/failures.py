"""Why a build, a load or a request of TensorRT-LLM failed, by what its log says.

Pure: text in, diagnosis out. The texts that are known stand in `signatures`.
"""

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from engineshed.triton.signatures import KNOWN, MAKING, SIGNATURES, Phase

EVIDENCE_LINES: Final = 50
_LONGEST_LINE: Final = 500
_LONGEST_CAUSE: Final = 1000


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why something failed."""

    code: str
    """UPPER_SNAKE; `KNOWN` has them all."""
    retryable: bool
    """False when it would fail again anywhere."""
    cause: str
    """The first line that tells of an error; "" when none does."""
    advice: str
    """What to do about it, for people."""
    evidence: tuple[str, ...]
    """The last lines of the log."""

    @property
    def message(self) -> str:
        """Cause and advice in one text."""
        return ": ".join(filter(None, (self.cause, self.advice)))


_GENERIC: Final[Mapping[Phase, str]] = {
    "convert": "CONVERT_FAILED",
    "build": "BUILD_FAILED",
    "load": "ENGINE_LOAD_FAILED",
    "serve": "SERVE_FAILED",
    "shutdown": "SHUTDOWN_UNCLEAN",
}
_CRASHED: Final[Mapping[Phase, str]] = {
    "convert": "BUILD_CRASHED",
    "build": "BUILD_CRASHED",
    "load": "CRASH_AT_LOAD",
    "serve": "CRASH_AT_LOAD",
    "shutdown": "SHUTDOWN_UNCLEAN",
}
_CRASHES: Final = frozenset(
    {signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}
)
_SHELL: Final = 128  # what shells and mpirun add to the number of the signal that ended a program

_MPI_ABORT: Final = re.compile(r"MPI_ABORT was invoked", re.IGNORECASE)
_STUB_STARTS: Final = re.compile(r"Starting Python backend stub", re.IGNORECASE)
_ERROR: Final = re.compile(
    r"\[TensorRT-LLM\]\[ERROR\]"
    r"|\[(TRT-LLM|TRT|TensorRT-LLM)\]( \[RANK \d+\])? \[E\]"
    r"|^E\d{4} \d\d:\d\d:\d\d"  # glog's
    r"|^\d{4}-\d\d-\d\dT[\d:.]+Z? E "  # the same of Triton with --log-format=ISO8601
    r"|^\S+: error: "  # argparse's
)
_TRACEBACK: Final = "Traceback (most recent call last):"


def diagnose(
    log: str | Sequence[str], *, phase: Phase, status: int | None = None, oom_kills: int = 0
) -> Diagnosis:
    """Return why something failed.

    Args:
        log: what it said, from its start on.
        phase: what it was doing.
        status: how the process ended, as `subprocess` or a shell tells; None: it did not.
        oom_kills: how often the kernel was seen to kill for want of memory meanwhile.

    """
    lines = _lines(log)
    cause = _cause(lines)
    number = _signal_of(status)
    killed = number == signal.SIGKILL or oom_kills > 0
    if phase == "shutdown":
        return _diagnosis("SHUTDOWN_UNCLEAN", lines, _ended_by(number) or cause)
    if killed:
        code = "BUILD_OOM_HOST" if phase in MAKING else "LOAD_OOM_HOST"
        how = "the kernel killed it" if oom_kills else "it was killed (SIGKILL), most likely"
        return _diagnosis(code, lines, f"{how} for want of memory")
    for signature in SIGNATURES:
        if phase in signature.phases and (found := _first(signature.text, lines)):
            return _diagnosis(signature.code, lines, cause or found)
    if number in _CRASHES:
        return _diagnosis(
            _CRASHED[phase], lines, "; ".join(filter(None, (_ended_by(number), cause)))
        )
    if any(_MPI_ABORT.search(line) for line in lines):
        return _diagnosis("MPI_ABORT", lines, cause or _last(lines))
    if phase == "load" and _STUB_STARTS.search(_last(lines)):
        return _diagnosis("STUB_STUCK", lines, cause or _last(lines))
    return _diagnosis(_GENERIC[phase], lines, cause or _ended_by(number) or _last(lines))


def diagnosis_of(code: str, log: str | Sequence[str], cause: str = "") -> Diagnosis:
    """Return the diagnosis of something that its caller has found out by itself: a stall, say.

    Args:
        code: one of `KNOWN`.
        log: what was said.
        cause: what was found out; "": the log's first error.

    """
    lines = _lines(log)
    return _diagnosis(code, lines, cause or _cause(lines))


RequestError = Literal["PROMPT_TOO_LONG", "QUEUE_FULL", "BAD_GUIDE"]

_REQUEST_ERRORS: Final[tuple[tuple[RequestError, str], ...]] = (
    ("PROMPT_TOO_LONG", r"Prompt length \(\d+\) exceeds maximum input length"),
    ("QUEUE_FULL", r"Exceeds maximum queue size"),
    ("BAD_GUIDE", r"guided.?decoding|\bguide(_type)?\b|grammar|json.?schema"),
)
_REQUEST_PATTERNS: Final = tuple(
    (code, re.compile(text, re.IGNORECASE)) for code, text in _REQUEST_ERRORS
)


def request_error(text: str) -> RequestError | None:
    """Return what an error of a request means, where the back end calls all of them INTERNAL.

    PROMPT_TOO_LONG and BAD_GUIDE (what the answer shall be held to makes no sense) are the client's
    fault; QUEUE_FULL says that there is no room now. None: it is the engine's.
    """
    return next((code for code, known in _REQUEST_PATTERNS if known.search(text)), None)


def _diagnosis(code: str, lines: Sequence[str], cause: str) -> Diagnosis:
    known = KNOWN[code]
    evidence = tuple(line[:_LONGEST_LINE] for line in lines[-EVIDENCE_LINES:])
    return Diagnosis(code, known.retryable, cause[:_LONGEST_CAUSE], known.advice, evidence)


def _lines(log: str | Sequence[str]) -> list[str]:
    lines = log.splitlines() if isinstance(log, str) else log
    return [line.rstrip() for line in lines if line.strip()]


def _cause(lines: Sequence[str]) -> str:
    """Return the first line that tells of an error; an MPI abort follows from what is above it."""
    abort = next((at for at, line in enumerate(lines) if _MPI_ABORT.search(line)), len(lines))
    return next(_errors(lines[:abort]), "")


def _errors(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines that tell of an error; of a Python traceback the one that ends it."""
    in_traceback = False
    for line in lines:
        if _TRACEBACK in line:
            in_traceback = True
        elif in_traceback and not line[0].isspace():
            in_traceback = False
            yield line
        elif not in_traceback and _ERROR.search(line):
            yield line


def _first(text: re.Pattern[str], lines: Sequence[str]) -> str:
    return next((line for line in lines if text.search(line)), "")


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else ""


def _signal_of(status: int | None) -> signal.Signals | None:
    """Return what ended a process; None: it ended by itself."""
    number = 0 if status is None else -status if status < 0 else status - _SHELL
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _ended_by(number: signal.Signals | None) -> str:
    return f"it was ended by {number.name}" if number else ""
