"""Reading a stream by a pull consumer: what all the readers here share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

IDLE: Final = 5.0  # seconds without a message, after which the consumer is looked after
BATCH: Final = 64
FORGOTTEN: Final = 30.0  # seconds after which the broker drops a reader that has gone


@dataclass(slots=True)
class Reader:
    """One consumer on one connection."""

    subscription: JetStreamContext.PullSubscription
    pending: int  # messages that are still to come, as the broker said last

    async def batch(self) -> list[Msg]:
        """Return the next messages; none when nothing came for IDLE seconds.

        Raises:
            nats.js.errors.APIError: the broker does not have the consumer any more.

        """
        try:
            messages = await self.subscription.fetch(BATCH, timeout=IDLE)
        except TimeoutError:
            messages = []
        if messages:
            self.pending = messages[-1].metadata.num_pending
        else:  # silence, messages that were removed, or a consumer that is gone: only asking tells
            self.pending = (await self.subscription.consumer_info()).num_pending or 0
        return messages


@asynccontextmanager
async def reading(
    js: JetStreamContext, stream: str, config: ConsumerConfig
) -> AsyncIterator[Reader]:
    """Open a consumer of `stream`, or the durable one that `config` names.

    Raises:
        nats.js.errors.NotFoundError: there is no such stream.

    """
    info = await js.add_consumer(stream, config)
    subscription = await js.pull_subscribe_bind(consumer=info.name, stream=stream)
    try:
        yield Reader(subscription, info.num_pending or 0)
    finally:
        with suppress(NatsError):  # the connection is gone, and the subscription with it
            await subscription.unsubscribe()
