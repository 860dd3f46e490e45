"""The documentation of metrics against a stack that runs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
from google.protobuf import json_format
from tests.e2e.conftest import ROOT
from tests.e2e.stack import Json, Stack, ok
from tests.metrics import names

from engineshed.api.replica.v1.replica_service_pb2 import Phase, ReplicaSpec, ReplicaState

GPU_HOSTS_ONLY = {
    "engineshed_replica_gpu_memory_bytes",
    "engineshed_replica_gpu_memory_used_bytes",
    "engineshed_replica_gpu_utilization_ratio",
}


def documented() -> set[str]:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("\n## Watching it\n")[2].partition("\n## ")[0]
    table = section.partition("| metric | of | what |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


def exposed(stack: Stack) -> Iterator[str]:
    """Yield what each process of the stack exposes."""
    ports = json.loads((stack.directory / "ports.json").read_text())
    token = (stack.directory / "credentials" / "metrics.token").read_text()
    for name in ("catalog", "scheduler", "agent"):
        yield read(f"http://127.0.0.1:{ports[f'{name}-metrics']}", token)
    yield read(stack.url, stack.token)
    for folder in (stack.directory / "agent" / "replicas").iterdir():
        state = json_format.Parse((folder / "status.json").read_text(), ReplicaState())
        if state.phase == Phase.PHASE_READY:  # those of other tests may just be ending
            yield read_front(folder, state)


def read_front(folder: Path, state: ReplicaState) -> str:
    spec = json_format.Parse((folder / "spec.json").read_text(), ReplicaSpec())
    return read(state.http_url, spec.secret)


def read(url: str, token: str) -> str:
    headers = {"authorization": f"Bearer {token}"}
    answer = httpx.get(f"{url}/metrics", headers=headers, timeout=20, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_what_is_documented_is_what_a_stack_exposes(stack: Stack, sample: Json) -> None:
    ok(stack.chat(sample["routing_key"], "hello"))

    with stack.client() as client:
        owners = client.get(f"/v0/dedicated_endpoints/{sample['endpoint_id']}/metrics").text

    found = {name for text in (*exposed(stack), owners) for name in names(text)}

    own = {name for name in found if not name.startswith(("process_", "nv_"))}
    assert own == documented() - GPU_HOSTS_ONLY
    assert {"process_resident_memory_bytes", "process_open_fds"} <= found


def test_only_operators_see_the_gateways_metrics_and_no_endpoints_host_shows_them(
    stack: Stack, sample: Json
) -> None:
    created = stack.post("/v0/tokens", {"name": "watcher", "scopes": ["inference"]})
    with stack.client(created["token"]) as client:
        assert client.get("/metrics").status_code == 403
    with stack.client() as client:
        host = {"host": f"{sample['routing_key']}.localhost:{stack.port}"}
        assert client.get("/metrics", headers=host).status_code == 404
