"""Events come out of their rows as they went in."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from engineshed.errors import Kind
from engineshed.eventstore import Metadata, RecordedEvent, UnknownEventTypeError
from engineshed.eventstore.codec import (
    COLUMNS,
    decode,
    encode,
    from_moment,
    message_class,
    to_moment,
)
from engineshed.eventstore.schema import events

times = st.datetimes(timezones=st.just(UTC))
words = st.text(max_size=20)
positions = st.integers(1, 2**63 - 1)


def row_of(event: RecordedEvent, moment: int) -> dict[str, object]:
    names = [column.name for column in events.columns]
    return dict(zip(names, encode(event, moment), strict=True))


@given(times)
def test_a_time_is_kept_to_the_microsecond(time: datetime) -> None:
    assert from_moment(to_moment(time)) == time


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5)))

    assert from_moment(to_moment(noon)) == datetime(2026, 3, 1, 7, tzinfo=UTC)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        to_moment(datetime(2026, 3, 1, 12))


@given(
    st.builds(
        RecordedEvent,
        position=positions,
        event_id=words,
        stream=words,
        version=positions,
        type=st.just("google.protobuf.StringValue"),
        event=st.builds(StringValue, value=words),
        metadata=st.builds(Metadata, words, words, words, words, words),
        recorded_at=times,
    )
)
def test_an_event_survives_its_row(event: RecordedEvent) -> None:
    row = row_of(event, to_moment(event.recorded_at))

    assert decode([[row[column.name] for column in COLUMNS]]) == [event]


@given(st.permutations(["a", "b", "c", "d", "e"]))
def test_equal_events_have_equal_bytes(order: list[str]) -> None:
    fact = Struct()
    fact.update(dict.fromkeys(order, 1))
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    event = RecordedEvent(1, "e", "s/1", 1, "t", fact, Metadata("a", "o"), moment)

    expected = Struct()
    expected.update(dict.fromkeys("abcde", 1))
    assert row_of(event, 0)["data"] == expected.SerializeToString(deterministic=True)


def test_a_type_that_nobody_defined_is_named() -> None:
    with pytest.raises(UnknownEventTypeError, match=r"engineshed\.Nothing") as unknown:
        message_class("engineshed.Nothing")

    assert unknown.value.kind is Kind.UNAVAILABLE
    assert unknown.value.facts == {"type": "engineshed.Nothing"}
