"""The streams in the broker, made when they are missing and kept as they must be."""

from datetime import timedelta
from functools import partial
from typing import Final

from nats.js import JetStreamContext
from nats.js.api import StorageType, StoreCompression, StreamConfig
from nats.js.errors import NotFoundError

from engineshed.bus.client import Bus

EVENTS: Final = "ENGINESHED_EVENTS"
LOGS: Final = "ENGINESHED_LOGS"
EVENT_SUBJECTS: Final = "engineshed.events.v1.>"
LOG_SUBJECTS: Final = "engineshed.logs.v1.>"

# A message repeated within it is dropped: a relay that comes back repeats its last few at once.
DUPLICATE_WINDOW: Final = timedelta(minutes=10)
LOG_RETENTION: Final = timedelta(weeks=2)
LONGEST_LOG: Final = 200_000  # lines of one source of one replica; the oldest go first

# Events are kept for ever: they are small, and time travel ends where they end.
_EVENT_STREAM: Final = StreamConfig(
    name=EVENTS,
    description="What happened, as CloudEvents.",
    subjects=[EVENT_SUBJECTS],
    storage=StorageType.FILE,
    duplicate_window=DUPLICATE_WINDOW.total_seconds(),
    compression=StoreCompression.S2,
)
_LOG_STREAM: Final = StreamConfig(
    name=LOGS,
    description="Lines that replicas have logged.",
    subjects=[LOG_SUBJECTS],
    storage=StorageType.FILE,
    duplicate_window=DUPLICATE_WINDOW.total_seconds(),
    compression=StoreCompression.S2,
    max_age=LOG_RETENTION.total_seconds(),
    max_msgs_per_subject=LONGEST_LOG,
)


async def ensure_streams(bus: Bus, log_retention: timedelta | None = None) -> None:
    """Make the streams of events and logs, or mend them; meant for `bus.on_connect`.

    So a broker whose store was wiped gets them back. Limits and replicas of a stream that exists
    stay as they are: they are the operator's to change.

    Args:
        bus: where they are.
        log_retention: how long lines of logs are kept, from now on; None: as it is, and two weeks
            in a new stream.

    Raises:
        BusUnavailableError: the broker did not answer.

    """
    for wanted in (_EVENT_STREAM, _LOG_STREAM):
        kept = log_retention if wanted is _LOG_STREAM else None
        made = wanted.evolve(num_replicas=bus.replicas)
        await bus.call(partial(_ensure, wanted=made, kept=kept))


async def _ensure(js: JetStreamContext, wanted: StreamConfig, kept: timedelta | None) -> None:
    if kept is not None:
        wanted = wanted.evolve(max_age=kept.total_seconds())
    assert wanted.name is not None
    try:
        present = (await js.stream_info(wanted.name)).config
    except NotFoundError:
        await js.add_stream(wanted)
        return
    mended = present.evolve(
        subjects=wanted.subjects,
        duplicate_window=max(wanted.duplicate_window, present.duplicate_window),
        max_age=present.max_age if kept is None else wanted.max_age,
    )
    if mended != present:
        await js.update_stream(mended)
