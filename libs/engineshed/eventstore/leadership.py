"""Which of several processes on one store may write: a term, and a lease by the database's clock.

The lease stands in the one row that every append locks, beside the term. A process that was
stopped and goes on may still believe that it leads; but whoever took over has counted the term up,
and an append of an older term is refused in its own transaction. An advisory lock would be none of
that: it lasts as long as the connection of a process that is stopped.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from google.protobuf.message import Message
from sqlalchemy import BigInteger, ColumnElement, Connection, or_, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from engineshed.eventstore.errors import (
    NotLeaderError,
    StoreUnavailableError,
    StreamConflictError,
)
from engineshed.eventstore.model import Metadata, StreamAppend
from engineshed.eventstore.schema import log_head
from engineshed.eventstore.store import EventStore

# How often a standby looks whether the lease has run out.
_LOOK_S: Final = 0.5

# A lease is renewed so often before it runs out.
_RENEWALS: Final = 4

# To give a lease up spares the others a wait; it is not worth holding up the end of the process.
_GIVE_UP_S: Final = 2.0

_log = structlog.get_logger()


class _database_clock(FunctionElement[int]):  # noqa: N801 - SQLAlchemy's functions look so
    """Microseconds since 1970, by the clock of the database, at the moment of its evaluation."""

    type = BigInteger()
    inherit_cache = True


@compiles(_database_clock, "sqlite")
def _sqlite_clock(*_: Any, **__: Any) -> str:  # noqa: ANN401 - SQLAlchemy's compiler passes them
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


@compiles(_database_clock, "postgresql")
def _postgresql_clock(*_: Any, **__: Any) -> str:  # noqa: ANN401 - SQLAlchemy's compiler passes them
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


@dataclass(frozen=True, slots=True)
class _Lease:
    term: int
    leader: str
    has_run_out: bool


class Leadership:
    """This process's part in it: it stands by, or leads, or has led."""

    def __init__(
        self, store: EventStore, name: str, *, lease_s: float, is_gone: Callable[[str], bool]
    ) -> None:
        """Make it.

        Args:
            store: what is led.
            name: of this process, different from every other's that ever was.
            lease_s: how long a leader that is not heard of keeps the others waiting.
            is_gone: tells of a leader's name that its process has certainly ended, so that nobody
                has to wait for its lease.

        """
        self._store = store
        self._name = name
        self._lease_s = lease_s
        self._is_gone = is_gone
        self._other = ""  # who led when this was last looked at
        self._term = 0
        self._until = 0.0  # by the monotonic clock, which runs on while a process is stopped

    @property
    def term(self) -> int:
        """The term that this process leads, or led, in; 0 before."""
        return self._term

    @property
    def leads(self) -> bool:
        """Whether this process can be sure that no other one leads."""
        return time.monotonic() < self._until

    def refusal(self) -> NotLeaderError | None:
        """Return what to refuse calls with; None while this process leads."""
        if self.leads:
            return None
        if self._term:
            return NotLeaderError(f"this process led in term {self._term}, and leads no more")
        who = self._other.partition(" ")[0] or "nobody yet"
        return NotLeaderError(f"this process stands by; the leader is {who}")

    async def win(self, stream: str, elected: Callable[[int], Message], metadata: Metadata) -> int:
        """Return the term in which this process leads, once it does.

        Args:
            stream: whose version is the term.
            elected: makes the event that begins a term.
            metadata: of the event.

        """
        while True:
            try:
                lease = await self._store.query(_lease)
                self._note(lease)
                gone = lease.leader if self._is_free(lease.leader) else None
                if lease.has_run_out or gone is not None:
                    await self._take(gone, stream, elected, metadata)
                    return self._term
            except (NotLeaderError, StreamConflictError):
                pass  # another one was quicker
            except StoreUnavailableError as error:
                _log.warning("no election now", error=error.message)
            await asyncio.sleep(_LOOK_S)

    async def keep(self) -> None:
        """Renew the lease for as long as that goes; never return.

        While the database takes no writes, the lease may run out, and nobody can take it: then it
        is enough to read that nobody has.

        Raises:
            NotLeaderError: another process leads, or may do so. This one must act no more.

        """
        while True:
            await asyncio.sleep(self._lease_s / _RENEWALS)
            asked = time.monotonic()
            try:
                async with asyncio.timeout(self._lease_s):
                    await self._renew(asked)
            except (StoreUnavailableError, TimeoutError) as error:
                _log.warning("the lease is not renewed", error=repr(error))
            if not self.leads:
                raise NotLeaderError(f"the lease of term {self._term} has run out")

    async def give_up(self) -> None:
        """Let another process lead at once."""
        if not self.leads:
            return
        self._until = 0.0
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                await self._store.append(write=self._end_lease)
        except (NotLeaderError, StoreUnavailableError, TimeoutError) as error:
            _log.warning("the lease was not given up", error=repr(error))

    async def _take(
        self, gone: str | None, stream: str, elected: Callable[[int], Message], metadata: Metadata
    ) -> None:
        version = await self._store.version(stream)
        term = version + 1
        asked = time.monotonic()

        def take(connection: Connection) -> None:
            free = or_(log_head.c.leads_until <= _database_clock(), log_head.c.leader == gone)
            values = {"term": term, "leader": self._name, "leads_until": self._new_lease()}
            if connection.execute(update(log_head).where(free).values(values)).rowcount == 0:
                raise NotLeaderError("another process leads")

        await self._store.append(
            StreamAppend(stream, version, [elected(term)], metadata), write=take
        )
        self._store.fence(term)
        self._term, self._until = term, asked + self._lease_s

    async def _renew(self, asked: float) -> None:
        try:
            await self._store.append(write=self._lengthen_lease)
            self._until = asked + self._lease_s
        except StoreUnavailableError:
            lease = await self._store.query(_lease)
            if lease.term != self._term:
                raise NotLeaderError(f"{lease.leader} leads in term {lease.term}") from None
            self._until = max(self._until, asked + self._lease_s / 2)
            raise

    def _is_free(self, leader: str) -> bool:
        """Tell whether nobody leads by this name; it is ours after a win that we were not told."""
        return leader == self._name or self._is_gone(leader)

    def _lengthen_lease(self, connection: Connection) -> None:
        connection.execute(update(log_head).values(leads_until=self._new_lease()))

    def _end_lease(self, connection: Connection) -> None:
        connection.execute(update(log_head).values(leads_until=0))

    def _new_lease(self) -> ColumnElement[int]:
        return _database_clock() + int(self._lease_s * 1_000_000)

    def _note(self, lease: _Lease) -> None:
        if lease.leader != self._other and not lease.has_run_out:
            _log.info("standing by", leader=lease.leader, term=lease.term)
        self._other = lease.leader


def _lease(connection: Connection) -> _Lease:
    has_run_out = log_head.c.leads_until <= _database_clock()
    query = select(log_head.c.term, log_head.c.leader, has_run_out)
    term, leader, run_out = connection.execute(query).one()
    return _Lease(term, leader, bool(run_out))
