"""Commands on endpoints: find, decide, record."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.eventstore import Idempotency, Metadata, RecordedEvent
from engineshed.runtime import utc_now
from engineshed.scheduler import measurements
from engineshed.scheduler.domain import decide, evolve
from engineshed.scheduler.domain.commands import Command, Create
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointEvent
from engineshed.scheduler.domain.errors import EndpointNotFoundError
from engineshed.scheduler.domain.measurement import measured
from engineshed.scheduler.journal import Journal, Write
from engineshed.scheduler.store import SERVICE


class Endpoints:
    """All endpoints, those that are forgotten in memory too."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def get(self, endpoint_id: str, *, as_of: datetime | None = None) -> Endpoint | None:
        """Return an endpoint as it was at a moment, or as it is now; None when it was not there."""
        if as_of is None and endpoint_id in self._journal.view.endpoints:
            return self._journal.view.endpoints[endpoint_id]
        return _fold(await self._journal.store.load(_stream(endpoint_id), as_of=as_of))

    async def get_revision(self, endpoint_id: str, revision: int) -> Endpoint:
        """Return an endpoint as it was after so many events."""
        history = await self._journal.store.load(_stream(endpoint_id))
        state = _fold(history[:revision])
        assert state is not None, "revisions are given out by `command`"
        return state

    def is_busy(self, endpoint_id: str) -> bool:
        """Tell whether somebody is deciding on an endpoint, so that it may be about to change."""
        return self._journal.is_locked(_stream(endpoint_id))

    async def command(
        self,
        endpoint_id: str,
        command: Command,
        metadata: Metadata,
        request: Idempotency | None = None,
        *,
        then: Command | None = None,
    ) -> Endpoint:
        """Record what `command` makes true, and return the endpoint after it.

        Args:
            endpoint_id: the endpoint.
            command: what is asked.
            metadata: of the events.
            request: the request behind it; it is remembered even when nothing changes.
            then: what is carried out with it, after it: both are recorded, or neither.

        Raises:
            DomainError: the command is refused, or cannot be recorded now.

        """
        commands = (command,) if then is None else (command, then)
        return await self._journal.finish(self._command(endpoint_id, commands, metadata, request))

    async def act(self, endpoint_id: str, command: Command) -> Endpoint:
        """Do the same on the scheduler's own account, on an endpoint that is in the view."""
        org_id = self._journal.view.endpoints[endpoint_id].org_id
        return await self.command(endpoint_id, command, Metadata(SERVICE, org_id))

    async def _command(
        self,
        endpoint_id: str,
        commands: Sequence[Command],
        metadata: Metadata,
        request: Idempotency | None,
    ) -> Endpoint:
        stream = _stream(endpoint_id)
        async with self._journal.lock(stream):
            # What is created has no history to look for.
            state = None if isinstance(commands[0], Create) else await self.get(endpoint_id)
            before = state.revision if state else 0
            events: list[EndpointEvent] = []
            now = utc_now()
            for command in commands:
                present = decide.fold(state, events, now) if events else state
                events += decide.decide(present, command, now)
            if request is not None:
                answer = answer_of(endpoint_id, before + len(events))
                request = replace(request, response=answer)
            if events or request is not None:
                await self._journal.append(
                    stream, before, events, metadata, request, write=_measuring(state, events, now)
                )
            state = await self.get(endpoint_id)
            if state is None:
                raise EndpointNotFoundError.of(endpoint_id)
            return state


def _measuring(
    state: Endpoint | None, events: Sequence[EndpointEvent], now: datetime
) -> Write | None:
    """Return what writes down, with the events, what they say of memory."""
    if not any(isinstance(event, pb.ReplicaReady) for event in events):
        return None
    found = list(measured(decide.fold(state, events, now), events))
    return (lambda connection: measurements.note(connection, found)) if found else None


def answer_of(endpoint_id: str, revision: int) -> bytes:
    """Return what is remembered of an answer: which endpoint it showed, after how many events."""
    return f"{endpoint_id}@{revision}".encode()


def read_answer(answer: bytes) -> tuple[str, int]:
    """Return what `answer_of` has put together."""
    endpoint_id, _, revision = answer.decode().partition("@")
    return endpoint_id, int(revision)


def _stream(endpoint_id: str) -> str:
    return f"endpoint/{endpoint_id}"


def _fold(history: Iterable[RecordedEvent]) -> Endpoint | None:
    state: Endpoint | None = None
    for recorded in history:
        event = cast("EndpointEvent", recorded.event)
        state = evolve.evolve(state, event, recorded.recorded_at)
    return state
