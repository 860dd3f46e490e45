"""Durable consumption of events: each one is handled, however often somebody dies."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from engineshed.bus.client import Bus
from engineshed.bus.events import ReceivedEvent, received
from engineshed.bus.metrics import ConsumerCounts
from engineshed.bus.reading import reading
from engineshed.bus.streams import EVENTS

Handler = Callable[[ReceivedEvent], Awaitable[None]]

ACK_WAIT: Final = 30.0  # seconds until an event that is not acknowledged comes again
LONGEST_DELAY: Final = 60.0

log = structlog.get_logger()


async def consume(bus: Bus, durable: str, filter_subjects: Sequence[str], handler: Handler) -> None:
    """Call `handler` with every event on `filter_subjects`, for ever.

    The broker remembers under the name `durable` what was handled; several processes with the
    same name share the work. An event is acknowledged after `handler` returned. When it raised,
    the event comes again after a delay that grows to a minute, and later ones do not wait for it.
    So an event may come more than once and out of order, after a wiped broker all of them: what
    `handler` does must count once per `event_id`.

    Args:
        bus: the connection, whose user may use the consumer `durable`.
        durable: the consumer's name; by convention the service's.
        filter_subjects: e.g. `[subject_of("scheduler", aggregate="endpoint")]`.
        handler: what to do with an event.

    """
    name = bus.durable_name(durable)
    config = ConsumerConfig(
        name=name,
        durable_name=name,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT,
        filter_subjects=list(filter_subjects),
    )

    counts = bus.metrics.consumers[durable]

    async def work(js: JetStreamContext) -> None:
        async with reading(js, EVENTS, config) as reader:
            while True:
                counts.pending = reader.pending
                for message in await reader.batch():
                    await _handle(message, handler, durable, counts)

    await bus.each_connection(work)


async def _handle(message: Msg, handler: Handler, durable: str, counts: ConsumerCounts) -> None:
    counts.redelivered += message.metadata.num_delivered > 1
    try:
        await handler(received(message))
    except Exception:
        counts.outcomes["failed"] += 1
        attempt = message.metadata.num_delivered
        delay = min(LONGEST_DELAY, 0.5 * 2 ** min(attempt, 10))
        log.exception(
            "bus.event_not_handled",
            consumer=durable,
            subject=message.subject,
            attempt=attempt,
            retry_in_s=delay,
        )
        await message.nak(delay=delay)
    else:
        counts.outcomes["handled"] += 1
        await message.ack()
