"""What a front says of the GPUs that its replica was given, and what their owner sees of it.

The driver is a stand-in.
"""

import json
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.metrics import sample
from tests.service.agent import stand_in_driver
from tests.service.gateway import rest

from engineshed.api.scheduler.v1.route_pb2 import Route, RouteReplica
from engineshed.gateway.dataplane.fronts import Fronts

from .conftest import Start
from .fronts import KEY, SECRET, Front

GPUS = [
    {"uuid": "GPU-a", "used": 1 << 30, "gpu": 25},
    {"uuid": "GPU-b", "used": 2 << 30, "gpu": 50},
    {"uuid": "GPU-c", "answers": False},
]
WITH_GPUS = {
    "PYTHONPATH": str(Path(*stand_in_driver.__path__)),
    "STAND_IN_GPUS": json.dumps(GPUS),
}


async def page(front: Front) -> str:
    async with front.get("/metrics") as response:
        return await response.text()


async def owners_page(front: Front) -> str:
    """What a gateway shows of an endpoint with this replica alone."""
    scheduler, routes, fronts = rest.Scheduler(), rest.Routes(), Fronts()
    scheduler.endpoint.routing_key, scheduler.endpoint.region = KEY, "local"
    replica = RouteReplica(replica_id="rep_01", url=front.state.http_url, secret=SECRET)
    routes.entries = {KEY: Route(endpoint_id=rest.ENDPOINT, replicas=[replica])}
    transport = httpx.ASGITransport(rest.application(scheduler, routes, fronts))
    headers = {"authorization": "Bearer es_mine"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers=headers
    ) as client:
        answer = await client.get(f"{rest.ONE}/metrics")
    fronts.close()
    return answer.text


async def test_its_own_gpus_show_but_for_those_that_do_not_answer(start: Start) -> None:
    front = await start(environment=WITH_GPUS | {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-c"})
    await front.ready()

    text = await page(front)

    mine = {"gpu": "0", "uuid": "GPU-b"}
    assert sample(text, "engineshed_replica_gpu_memory_bytes", **mine) == 150109880320
    assert sample(text, "engineshed_replica_gpu_memory_used_bytes", **mine) == 2 << 30
    assert sample(text, "engineshed_replica_gpu_utilization_ratio", **mine) == 0.5
    shown = {
        one.labels["uuid"]
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if family.name.startswith("engineshed_replica_gpu_")
    }
    assert shown == {"GPU-b"}

    text = await owners_page(front)
    mine["replica_id"] = "rep_01"
    assert sample(text, "engineshed_replica_gpu_memory_used_bytes", **mine) == 2 << 30
    assert sample(text, "engineshed_replica_requests_limit", replica_id="rep_01") > 0
    assert 'nv_inference_count{replica_id="rep_01",model="tensorrt_llm"' in text, "NVIDIA's name"
    assert "nv_cpu_" in await page(front)
    assert "nv_cpu_" not in text, "others' replicas have part in it"
    assert SECRET not in text
    assert front.state.http_url.removeprefix("http://") not in text


async def test_a_replica_on_a_cpu_shows_none(front: Front) -> None:
    assert "engineshed_replica_gpu_" not in await page(front)
