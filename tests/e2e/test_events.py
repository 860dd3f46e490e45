"""A subscriber reads the events from NATS, as the documentation says, and can do nothing else."""

import asyncio
from typing import Any

import nats
import nats.errors
import pytest
from tests.e2e.stack import Json, Stack

from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated


def url(stack: Stack) -> str:
    assert (stack.directory / "nats.url").stat().st_mode & 0o777 == 0o600
    return (stack.directory / "nats.url").read_text().strip()


async def test_a_plain_subscriber_sees_every_event_as_a_cloud_event(
    stack: Stack, sample: Json
) -> None:
    recorded = await asyncio.to_thread(
        stack.get, f"/v0/dedicated_endpoints/{sample['endpoint_id']}/events"
    )
    connection = await nats.connect(url(stack))
    events = await connection.jetstream().subscribe("engineshed.events.v1.>", ordered_consumer=True)
    seen: list[Any] = []
    async with asyncio.timeout(20):
        while len(seen) < len(recorded["data"]):
            message: Any = await events.next_msg(timeout=10)
            if message.headers["ce-subject"] == f"endpoint/{sample['endpoint_id']}":
                seen.append(message)
    await connection.close()

    assert [item.headers["ce-id"] for item in seen] == [
        event["event_id"] for event in recorded["data"]
    ]
    first = seen[0]
    assert first.headers["ce-specversion"] == "1.0"
    assert first.headers["ce-type"] == "engineshed.api.scheduler.v1.EndpointCreated"
    assert first.subject.split(".") == [
        "engineshed", "events", "v1", "scheduler", sample["org_id"], "endpoint",
        sample["endpoint_id"], "EndpointCreated",
    ]  # fmt: skip
    created = EndpointCreated.FromString(first.data)
    assert created.routing_key == sample["routing_key"]


async def test_a_subscriber_may_neither_publish_nor_read_routes_tokens_or_logs(
    stack: Stack,
) -> None:
    refused = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error))

    connection = await nats.connect(url(stack), error_cb=on_error)
    await connection.publish("engineshed.events.v1.scheduler.x.endpoint.y.Z", b"lie")
    await connection.flush()
    for stream in ("KV_routes", "KV_tokens", "ENGINESHED_LOGS"):
        with pytest.raises((nats.errors.TimeoutError, nats.errors.Error)):
            await connection.jetstream(timeout=1).get_last_msg(stream, ">")
    await connection.close()

    assert any("permissions violation" in text.lower() for text in refused)
