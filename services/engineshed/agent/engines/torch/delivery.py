"""Getting answers out: what the decoder says is noted, and one thread, the courier, sends it.

Sending goes through another process and takes its time. So the decoder never waits for it, and
tokens that come meanwhile go out together. The courier also asks which requests were cancelled.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from engineshed.triton.refusal import Refusal

log = structlog.get_logger()

_CANCEL_POLL_SECONDS: Final = 0.02
_IDLE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of an answer."""

    tokens: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] | None = None
    """Of each of the tokens; None: the request does not ask for them."""
    total_log_probability: float = 0.0
    """Of the answer so far, if it does."""


class Outlet(Protocol):
    """Where the answer to one request leaves the process."""

    def send(self, piece: Piece, *, final: bool) -> None:
        """Send what is new; the piece has no tokens when only the end is."""
        ...

    def refuse(self, kind: Refusal, message: str) -> None:
        """Send the error that ends the answer."""
        ...

    def is_cancelled(self) -> bool:
        """Ask whether nobody waits for the answer any more."""
        ...


class Job:
    """A request in flight: the reply that the decoder talks to, and the outlet it ends in."""

    def __init__(
        self, request_id: str, outlet: Outlet, courier: "Courier", *, streaming: bool
    ) -> None:
        self.request_id = request_id
        self.outlet = outlet
        self._courier = courier
        self._streaming = streaming
        self._tokens: deque[tuple[int, float | None]] = deque()
        self._total_log_probability = 0.0
        self._error: tuple[Refusal, str] | None = None
        self._complete = False
        self._announced = False

    def token(self, token: int, log_probability: float | None = None) -> None:
        """Take the next token."""
        self._tokens.append((token, log_probability))
        if self._streaming:
            self._announce()

    def finish(self) -> None:
        """Take note that the answer is complete."""
        self._complete = True
        self._announce()

    def fail(self, message: str) -> None:
        """Take note that there will be no more, and why."""
        self.refuse(Refusal.INTERNAL, message)

    def refuse(self, kind: Refusal, message: str) -> None:
        """Take note that there will be no more, and whose fault it is."""
        self._error = kind, message
        self.finish()

    def take(self) -> tuple[Piece, bool, tuple[Refusal, str] | None]:
        """Return what is not yet taken, whether it is the last, and the error if any."""
        self._announced = False  # first, so that what comes from here on is announced again
        complete = self._complete  # before the tokens, which were all there when this was set
        new = [self._tokens.popleft() for _ in range(len(self._tokens))]
        tokens = tuple(token for token, _ in new)
        likely = tuple(each for _, each in new if each is not None)
        self._total_log_probability += sum(likely)
        piece = Piece(tokens, likely or None, self._total_log_probability)
        return piece, complete, self._error

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._courier.announce(self)


class Courier:
    """The thread that sends answers, until it is told to stop.

    Args:
        in_flight: the jobs that are not over, by request id.
        release: called with a job that is over and whether it was cancelled, before the last of
            it is sent: whoever reads that may count on the place being free.
        after_round: called now and then.

    """

    def __init__(
        self,
        in_flight: Mapping[str, Job],
        release: Callable[[Job, bool], None],
        after_round: Callable[[], None],
    ) -> None:
        self._in_flight = in_flight
        self._release = release
        self._after_round = after_round
        self._sending = threading.Lock()
        self._announced: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def announce(self, job: Job) -> None:
        """Have the courier take what the job has, soon."""
        self._announced.put(job)

    def drop_cancelled(self) -> None:
        """Release the jobs that nobody waits for any more."""
        for job in list(self._in_flight.values()):
            self._guard(job, self._drop_if_cancelled)

    def stop(self) -> None:
        """End the thread after what was announced before."""
        self._announced.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_poll = 0.0
        while self._serve_one():
            if time.monotonic() >= next_poll:
                self.drop_cancelled()
                self._after_round()
                next_poll = time.monotonic() + _CANCEL_POLL_SECONDS

    def _serve_one(self) -> bool:
        """Wait a little for a job with news and send it; return False when told to stop.

        A function of its own, so that no variable keeps the last job alive: Triton unloads a model
        only when all its response senders are gone.
        """
        try:
            wait = _CANCEL_POLL_SECONDS if self._in_flight else _IDLE_SECONDS
            job = self._announced.get(timeout=wait)
        except queue.Empty:
            return True
        if job is None:
            return False
        self._guard(job, self._send)
        return True

    def _guard(self, job: Job, step: Callable[[Job], None]) -> None:
        """Let what goes wrong with one answer end that one only."""
        try:
            with self._sending:
                if job.request_id in self._in_flight:  # else it was cancelled just now
                    step(job)
        except Exception:
            log.exception("answer_undeliverable", request_id=job.request_id)
            self._release(job, True)

    def _send(self, job: Job) -> None:
        piece, complete, error = job.take()
        if complete:
            self._release(job, False)
        if error is not None:
            job.outlet.refuse(*error)
        elif piece.tokens or complete:
            job.outlet.send(piece, final=complete)

    def _drop_if_cancelled(self, job: Job) -> None:
        if job.outlet.is_cancelled():
            self._release(job, True)
            job.outlet.send(Piece(), final=True)
