"""Blocking calls to what may never answer: each in a thread that nobody has to wait for.

A thread cannot be ended from outside. So these are daemons, which neither hold up the end of the
process nor take the threads of the event loop's own pool; a call that was given up finds that out
as soon as it beats, and ends.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

_AT_ONCE: Final = 8

T = TypeVar("T")


class AbandonedError(Exception):
    """Raised in the thread of a call for which nobody waits any more."""


class Pulse:
    """How a call in a thread shows that it gets on."""

    def __init__(self) -> None:
        self.beat_at = time.monotonic()
        self.done = 0
        self._abandoned = threading.Event()

    def beat(self, done: int) -> None:
        """Say that so much is done.

        Raises:
            AbandonedError: nobody wants it any more: touch nothing, and end.

        """
        if self._abandoned.is_set():
            raise AbandonedError
        self.done = done
        self.beat_at = time.monotonic()

    def abandon(self) -> None:
        """Let the call end at its next beat."""
        self._abandoned.set()


class PatientCalls:
    """Makes the calls, only so many at once: those that hang count for as long as they do."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(_AT_ONCE)

    async def call(
        self,
        function: Callable[[Pulse], T],
        patience: float,
        heard: Callable[[int], None] = lambda _done: None,
    ) -> T:
        """Return what `function` returns.

        Args:
            function: called in a thread of its own, with what it shows its progress by.
            patience: how many seconds it may go without a beat.
            heard: told a few times a second how much is done.

        Raises:
            TimeoutError: it went without a beat for longer; or too many that do are not over yet.

        """
        if not self._free.acquire(blocking=False):
            raise TimeoutError("earlier calls hang")
        pulse, future = Pulse(), Future[T]()
        future.set_running_or_notify_cancel()
        threading.Thread(target=self._run, args=(function, pulse, future), daemon=True).start()
        result = asyncio.wrap_future(future)
        try:
            while True:
                left = pulse.beat_at + patience - time.monotonic()
                await asyncio.wait({result}, timeout=min(max(left, 0.0), 0.25))
                if result.done():
                    return result.result()
                if left <= 0:
                    raise TimeoutError(f"nothing was heard for {patience:.0f} s")
                heard(pulse.done)
        finally:
            pulse.abandon()
            result.cancel()

    def _run(self, function: Callable[[Pulse], T], pulse: Pulse, future: Future[T]) -> None:
        try:
            future.set_result(function(pulse))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            future.set_exception(error)
        finally:
            self._free.release()
