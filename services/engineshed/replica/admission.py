"""How many requests a replica takes at once, and how many sequences its engine gets."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engineshed.replica.domain.load import Load
from engineshed.replica.errors import OVERLOADED, ApiError, unavailable


class Admission:
    """Counts requests in flight, exactly, and refuses at once what is too much.

    A request is one client's call, whatever number of answers it asks for. Each answer is a
    sequence, and the engine works on `max_sequences` of them; those beyond wait here, in the order
    of arrival, and are never turned away once their request is in.

    Attributes:
        admitted: requests so far.
        refused: requests turned away so far.
        sequences: the turns at the engine.

    """

    def __init__(
        self,
        max_requests: int,
        max_sequences: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Take none until it is opened; `clock` is in nanoseconds and never goes back."""
        self.max_requests = max_requests
        self.sequences = asyncio.Semaphore(max_sequences)
        self._clock = clock
        self._load = Load(clock())
        self._opened = False
        self.admitted = 0
        self.refused = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed: ApiError | None = unavailable("The model is being loaded.", "loading")

    @property
    def in_flight(self) -> int:
        """How many requests there are now."""
        return self._load.in_flight

    @property
    def in_flight_seconds(self) -> float:
        """How long all requests so far have been in flight together."""
        return self._load.seconds(self._clock())

    @property
    def idle_seconds(self) -> float | None:
        """Since when there is no request, or it was opened; None before that, 0 while it has some.

        It goes on when it is closed.
        """
        return self._load.idle_seconds(self._clock()) if self._opened else None

    @property
    def closed(self) -> ApiError | None:
        """What requests are refused with; None while they are taken."""
        # It is raised again and again: its traceback would keep every request that it refused.
        return self._closed and self._closed.with_traceback(None)

    def open(self) -> None:
        """Take requests from now on."""
        self._closed = None
        self._opened = True
        self._count(0)  # what was before is no time in which it could have had one

    def close(self, answer: ApiError) -> None:
        """Refuse requests from now on with `answer`; those in flight go on."""
        self._closed = answer

    async def empty(self) -> None:
        """Return when no request is in flight."""
        await self._empty.wait()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Take in a request until the block is left.

        Raises:
            ApiError: 503, there are as many as it takes, or it takes none.

        """
        if (closed := self.closed) is not None:
            self.refused += 1
            raise closed
        if self.in_flight >= self.max_requests:
            self.refused += 1
            raise unavailable(
                f"This replica works on {self.max_requests} requests and takes no more now. "
                "Try again.",
                OVERLOADED,
            )
        self._count(+1)
        self.admitted += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._count(-1)
            if self.in_flight == 0:
                self._empty.set()

    def _count(self, change: int) -> None:
        self._load = self._load.after(change, self._clock())
