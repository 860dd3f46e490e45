"""The way of committed events into the broker."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from engineshed.bus.client import Bus
from engineshed.bus.errors import BusUnavailableError
from engineshed.bus.events import headers, position_of, subject, subject_of
from engineshed.bus.streams import EVENTS

if TYPE_CHECKING:  # gateways and agents use the bus without a database's libraries
    from engineshed.eventstore import RecordedEvent


class EventPublisher:
    """The `EventSink` of one service's relay.

    On every new connection it publishes nothing before it was asked for `resume_position`: the
    broker may have come back without its store, and an event published then would hide that those
    before it are gone.
    """

    def __init__(self, bus: Bus, service: str) -> None:
        self._bus = bus
        self._service = service
        self._resumed_on: int | None = None  # the connection, by its number

    async def publish(self, event: "RecordedEvent") -> None:
        """Return when the broker has the event, or had it already.

        Raises:
            BusUnavailableError: it may not have it. Ask for `resume_position`, then go on.

        """
        if self._bus.connections != self._resumed_on:
            raise BusUnavailableError(
                "the connection to NATS is a new one; ask for the position to resume at"
            )
        await self._bus.publish(
            subject(self._service, event),
            event.event.SerializeToString(deterministic=True),
            stream=EVENTS,
            headers=headers(self._service, event),
        )

    async def resume_position(self) -> int | None:
        """Return the position of this service's last event in the broker.

        0 when it holds none. None when it holds none but has removed old messages, so that this
        service's may have been among them: then nobody but the service knows how far it was.

        Raises:
            BusUnavailableError: the broker did not answer.

        """
        connection = self._bus.connections
        attributes = await self._bus.call(self._last_headers)
        if attributes is None:
            position = await self._bus.call(_none_or_zero)
        else:
            position = position_of(attributes)
        self._resumed_on = connection
        return position

    async def _last_headers(self, js: JetStreamContext) -> Mapping[str, str] | None:
        try:
            message = await js.get_last_msg(EVENTS, _all_of(self._service))
        except NotFoundError:
            return None
        return message.headers or {}


async def _none_or_zero(js: JetStreamContext) -> int | None:
    """Tell, of a stream without messages of a service, whether there may have been some."""
    try:
        state = (await js.stream_info(EVENTS)).state
    except NotFoundError:
        return 0
    # Sequences begin at 1 and only retention (or an operator) removes the first ones.
    return None if state.first_seq > 1 else 0


def _all_of(service: str) -> str:
    return subject_of(service)
