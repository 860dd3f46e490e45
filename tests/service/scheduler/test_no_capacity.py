"""Endpoints that must not wait, over gRPC: they have their GPUs at once, or are refused."""

import asyncio

import grpc
import pytest
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.errors import Kind
from engineshed.rpc import RemoteError, error_from

FAIL = pb.ON_NO_CAPACITY_FAIL
TAKERS = 8


def why(error: object) -> RemoteError:
    assert isinstance(error, grpc.aio.AioRpcError)
    remote = error_from(error)
    assert remote is not None, error
    return remote


async def refused(tenant: Tenant, region: str, **fields: object) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tenant.create(region, on_no_capacity=FAIL, **fields)
    return why(caught.value)


async def test_it_has_its_gpus_from_the_beginning(tenant: Tenant, join: Join, region: str) -> None:
    agent = await join(gpus=4)
    two = pb.Scaling(min_replicas=2, max_replicas=2)
    created = await tenant.create(region, gpu_count=2, scaling=two, on_no_capacity=FAIL)
    assert created.state == pb.Endpoint.STATE_PROVISIONING
    assert [list(one.gpus) for one in created.replicas] == [[0, 1], [2, 3]]
    running = await tenant.until(created.endpoint_id, pb.Endpoint.STATE_RUNNING)
    assert {one.node_id for one in running.replicas} == {agent.node_id}


async def test_a_refusal_says_what_is_missing_and_leaves_nothing(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=3)
    taken = await tenant.create(region, gpu_count=2)
    three = pb.Scaling(min_replicas=3, max_replicas=3)
    error = await refused(tenant, region, scaling=three)
    assert (error.kind, error.reason) == (Kind.REFUSED, "NO_CAPACITY")
    assert error.message.startswith("2 of 3 replicas would wait: waiting for a free GPU")

    listed = await tenant.endpoints.ListEndpoints(pb.ListEndpointsRequest())
    assert [one.endpoint_id for one in listed.endpoints] == [taken.endpoint_id]
    assert stack.catalog.held_for(tenant.org_id) == {taken.endpoint_id}


@pytest.mark.parametrize("others", ["fail", "queue"])
async def test_of_many_at_once_as_many_are_accepted_as_there_are_gpus(
    stack: Stack, tenant: Tenant, join: Join, region: str, others: str
) -> None:
    await join(gpus=2)
    checkpoint_id = stack.catalog.checkpoint(tenant.org_id)
    queue = pb.ON_NO_CAPACITY_QUEUE if others == "queue" else FAIL
    results = await asyncio.gather(
        *(
            tenant.create(
                region,
                checkpoint_id=checkpoint_id,
                on_no_capacity=FAIL if number % 2 else queue,
            )
            for number in range(TAKERS)
        ),
        return_exceptions=True,
    )
    refusals = [why(one) for one in results if isinstance(one, BaseException)]
    assert {one.reason for one in refusals} <= {"NO_CAPACITY"}
    accepted = [one for one in results[1::2] if isinstance(one, pb.Endpoint)]
    assert all(len(one.replicas) == 1 for one in accepted), "whoever may not wait does not"
    gpus = [tuple(replica.gpus) for one in accepted for replica in one.replicas]
    assert len(gpus) == len(set(gpus))
    if others == "fail":
        assert len(refusals) == TAKERS - 2
    for endpoint in accepted:
        await tenant.until(endpoint.endpoint_id, pb.Endpoint.STATE_RUNNING)


async def test_a_repeated_request_meets_its_own_endpoint_and_not_a_refusal(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=1)
    checkpoint_id = stack.catalog.checkpoint(tenant.org_id)
    created = await asyncio.gather(
        *(
            tenant.create(
                region, checkpoint_id=checkpoint_id, on_no_capacity=FAIL, request_id="one"
            )
            for _ in range(5)
        )
    )
    assert len({one.endpoint_id for one in created}) == 1


async def test_a_checkpoint_that_is_being_registered_is_refused(
    stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join()
    checkpoint_id = stack.catalog.checkpoint(tenant.org_id, state=Checkpoint.STATE_REGISTERING)
    error = await refused(tenant, region, checkpoint_id=checkpoint_id)
    assert error.reason == "CHECKPOINT_NOT_READY"
    assert stack.catalog.held_for(tenant.org_id) == set()
