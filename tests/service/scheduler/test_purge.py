"""Stopped endpoints are terminated after a while, whoever leads by then."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant, eventually

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.api.scheduler.v1 import events_pb2

E = pb.Endpoint
AFTER = "ENGINESHED_PURGE_STOPPED_AFTER"


@pytest.fixture
def own_stack(tmp_path: Path, database_settings: dict[str, str]) -> Iterator[Stack]:
    """Return a stack whose endpoints are kept for ever."""
    stack = Stack(tmp_path, **{AFTER: "0"}, **database_settings)
    stack.start()
    stack.wait_ready()
    yield stack
    stack.close()


async def stopped(tenant: Tenant, region: str) -> str:
    endpoint_id = (await tenant.create(region)).endpoint_id
    await tenant.until(endpoint_id, E.STATE_RUNNING)
    await tenant.stop(endpoint_id)
    await tenant.until(endpoint_id, E.STATE_STOPPED)
    return endpoint_id


async def test_what_was_stopped_long_ago_is_terminated_by_the_next_leader(
    own_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    kept = (await tenant.create(region)).endpoint_id
    await tenant.until(kept, E.STATE_RUNNING)
    endpoint_id = await stopped(tenant, region)
    assert (await tenant.get(endpoint_id)).state_reason == ""

    own_stack.environment[AFTER] = "0.5"
    own_stack.restart()

    await tenant.until(endpoint_id, E.STATE_TERMINATED)
    await eventually(
        "the hold to be given back",
        lambda: own_stack.catalog.held_for(tenant.org_id) == {kept},
    )
    assert (await tenant.get(kept)).state == E.STATE_RUNNING
    last = (await tenant.events(f"endpoint/{endpoint_id}"))[-1]
    terminated = events_pb2.EndpointTerminated()
    assert last.data.Unpack(terminated)
    assert terminated.reason == "stopped for 0.5 seconds"
    assert last.actor == "scheduler"


async def test_a_stopped_one_says_when_it_will_be_purged(
    tenant: Tenant, join: Join, region: str
) -> None:
    await join()

    endpoint_id = await stopped(tenant, region)

    reason = (await tenant.get(endpoint_id)).state_reason
    assert reason.startswith("will be purged at 20")
    assert reason.endswith("Z unless it is restarted")
    await tenant.restart(endpoint_id)
    running = await tenant.until(endpoint_id, E.STATE_RUNNING)
    assert running.state_reason == ""
