"""Looking at a part of the host that may raise, or never answer."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any, Final, Generic, TypeVar

from engineshed.agent.domain.doctor.facts import Unseen
from engineshed.triton.launch import engine_environment

T = TypeVar("T")

LOOK_SECONDS: Final = 15.0


class Look(Generic[T]):
    """One look, begun at once in a thread of its own, which ends with this process at the latest.

    Args:
        look: what looks; whatever it raises becomes the reason why nothing was seen.
        seconds: how long it may take.

    """

    def __init__(self, look: Callable[[], T], seconds: float = LOOK_SECONDS) -> None:
        self._look = look
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._seen: T | Unseen = Unseen(f"no answer within {seconds:.0f} s")
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def seen(self) -> T | Unseen:
        """Wait for it to end, but not longer than it may take, and return what it saw."""
        self._thread.join(max(0.0, self._until - time.monotonic()))
        return self._seen

    def _run(self) -> None:
        try:
            self._seen = self._look()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told in the table
            self._seen = Unseen(str(error) or type(error).__name__)


class ProcessFailedError(Exception):
    """A process that was asked did not answer; the message is the last that it said."""


def ask(argv: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run a program that prints a JSON object as its last line, and return that object.

    Raises:
        ProcessFailedError: it failed, or took longer than `seconds` and was killed.

    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=engine_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessFailedError(f"no answer within {seconds:.0f} s") from error
    if done.returncode != 0:
        raise ProcessFailedError(_last_line(done.stderr) or f"exit status {done.returncode}")
    answer: dict[str, Any] = json.loads(_last_line(done.stdout))
    return answer


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "")
