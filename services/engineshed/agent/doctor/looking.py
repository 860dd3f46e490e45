"""Looking at a part of the host that may raise, or never answer."""

import time
from collections.abc import Callable
from threading import Thread
from typing import Final, Generic, TypeVar

from engineshed.agent.domain.doctor.facts import Unseen

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
