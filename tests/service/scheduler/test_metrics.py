"""What the scheduler's GET /metrics says of its fleet."""

from tests.metrics import is_refused, sample, scrape
from tests.service.scheduler.conftest import Join
from tests.service.scheduler.stack import Stack, Tenant

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb


def address_of(stack: Stack) -> str:
    return stack.environment["ENGINESHED_METRICS_LISTEN"]


async def test_the_fleet_and_the_queue_show_by_region_and_gpu_type(
    shared_stack: Stack, tenant: Tenant, join: Join, region: str
) -> None:
    await join(gpus=2)
    before = await scrape(address_of(shared_stack))
    placed = await tenant.create(region, gpu_count=2)
    await tenant.until(placed.endpoint_id, pb.Endpoint.STATE_RUNNING)
    waiting = await tenant.create(region, gpu_count=2)
    await tenant.until(waiting.endpoint_id, pb.Endpoint.STATE_QUEUED)

    text = await scrape(address_of(shared_stack))

    def here(name: str, **labels: str) -> float:
        return sample(text, f"engineshed_scheduler_{name}", region=region, **labels)

    def grown(name: str, **labels: str) -> float:
        name = f"engineshed_scheduler_{name}"
        return sample(text, name, **labels) - sample(before, name, **labels)

    assert sample(text, "engineshed_scheduler_leader") == 1
    assert sample(text, "engineshed_scheduler_term") >= 1
    assert here("nodes", state="joined") == 1
    assert here("gpus") == here("gpus_taken") == 2
    assert here("queue_length") == 1
    assert grown("endpoints", state="running") == grown("endpoints", state="queued") == 1
    assert grown("replicas", state="ready") == 1
    assert grown("decisions_total", kind="assign") == 1
    assert grown("plan_duration_seconds_count") > 0
    assert sample(text, "engineshed_scheduler_agents_connected") >= 1
    assert placed.endpoint_id not in text


async def test_only_holders_of_the_token_see_it(shared_stack: Stack) -> None:
    assert await is_refused(address_of(shared_stack))
