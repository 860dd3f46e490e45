"""What a store and its relay measure."""

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from tests.metrics import sample
from tests.service.eventstore.test_relay import Broker, relaying, until, write

from engineshed.eventstore import EventStore, Metadata, StreamAppend, StreamConflictError

LAG = "engineshed_relay_lag_events"
AGE = "engineshed_relay_oldest_unpublished_age_seconds"


def appends(store: EventStore, outcome: str) -> float:
    return sample(store.metrics, "engineshed_eventstore_appends_total", outcome=outcome)


async def test_appends_are_counted_by_outcome_and_transactions_by_size(store: EventStore) -> None:
    events = [Int64Value(value=1), Int64Value(value=2)]
    await asyncio.gather(
        *(
            store.append(StreamAppend(f"train/{n}", 0, events, Metadata("tok_1", "org_1")))
            for n in range(3)
        )
    )
    with pytest.raises(StreamConflictError):
        await store.append(StreamAppend("train/0", 0, events, Metadata("tok_1", "org_1")))

    assert appends(store, "committed") == 3
    assert appends(store, "conflict") == 1
    assert appends(store, "failed") == 0
    assert sample(store.metrics, "engineshed_eventstore_events_total") == 6
    assert sample(store.metrics, "engineshed_eventstore_batch_size_sum") == 4
    transactions = sample(store.metrics, "engineshed_eventstore_batch_size_count")
    commits = sample(store.metrics, "engineshed_eventstore_commit_duration_seconds_count")
    assert transactions == commits == 2


class Away(Broker):
    """A broker that is away until it is `there`."""

    there = False

    async def resume_position(self) -> int | None:
        if not self.there:
            raise ConnectionError("away")
        return await super().resume_position()


async def test_the_lag_grows_while_the_broker_is_away_and_goes_when_it_is_back(
    store: EventStore,
) -> None:
    broker = Away(0, failing=False)
    async with relaying(store, broker) as relay:
        await write(store, "train/1", 3)
        await until(lambda: sample(relay.metrics, AGE) > 0)
        assert sample(relay.metrics, LAG) == 3
        assert sample(relay.metrics, "engineshed_relay_interruptions_total") > 0
        assert sample(relay.metrics, "engineshed_relay_published_total") == 0

        broker.there = True
        await until(lambda: relay.lag == 0)

        assert sample(relay.metrics, LAG) == sample(relay.metrics, AGE) == 0
        assert sample(relay.metrics, "engineshed_relay_published_total") == 3
