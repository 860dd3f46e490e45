"""compose.yaml, with every command and variable of it, on this machine."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from tests.e2e.compose import ROOT, Deployment, deployed
from tests.e2e.stack import Json, ok, wait_for

from engineshed.bus import Bus
from engineshed.runtime.tls import Tls

STREAMS = ("ENGINESHED_EVENTS", "ENGINESHED_LOGS", "KV_routes", "KV_tokens")
GATEWAYS = ("gateway-1", "gateway-2")
SCHEDULERS = ("scheduler-1", "scheduler-2")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment")) as deployment:
        try:
            wait_for("the gateways", lambda: all(is_well(deployment, one) for one in GATEWAYS), 90)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{deployment.logs()}") from error
        yield deployment


def url(deployment: Deployment, gateway: str) -> str:
    return f"http://{deployment.hosts[gateway]}:8080"


def is_well(deployment: Deployment, gateway: str) -> bool:
    try:
        address = url(deployment, gateway)
        return httpx.get(f"{address}/healthz", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def client(deployment: Deployment, gateway: str) -> httpx.Client:
    token = (deployment.folder / "data" / "catalog" / "admin.token").read_text().strip()
    return httpx.Client(
        base_url=url(deployment, gateway),
        headers={"authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )


@pytest.fixture(scope="module")
def endpoint(deployment: Deployment) -> Json:
    """The sample, created through one gateway."""
    body = {
        "name": "sample",
        "model_name": "engineshed/sample",
        "flavor_name": "base",
        "gpu_type": "cpu",
        "gpu_count": 1,
        "region": "local",
        "scaling": {"min_replicas": 1, "max_replicas": 1},
    }
    with client(deployment, "gateway-1") as gateway:
        created = ok(gateway.post("/v0/dedicated_endpoints", json=body))
        path = f"/v0/dedicated_endpoints/{created['id']}"

        def running() -> Json | None:
            found = ok(gateway.get(path))
            assert found["status"] != "failed", found["status_reason"]
            return found if found["status"] == "running" else None

        return wait_for("the endpoint", running, 120)


@pytest.mark.parametrize("name", GATEWAYS)
def test_both_gateways_answer(deployment: Deployment, endpoint: Json, name: str) -> None:
    body = {
        "model": endpoint["routing_key"],
        "messages": [{"role": "user", "content": "What is an engine shed?"}],
    }

    def answer() -> Json | None:
        with client(deployment, name) as gateway:
            response = gateway.post("/v1/chat/completions", json=body)
        # The route may take a moment to come here.
        return ok(response) if response.is_success else None

    assert wait_for(f"an answer of {name}", answer)["choices"][0]["message"]["content"]


def test_the_guide_makes_every_folder_that_is_mounted(deployment: Deployment) -> None:
    made = re.search(r"mkdir -p deploy/data/\{(.*)\}", (ROOT / "deploy" / "README.md").read_text())
    data = str(deployment.folder / "data")
    mounted = {
        volume.split(":")[0].removeprefix(f"{data}/")
        for service in deployment.services.values()
        for volume in service.get("volumes", ())
        if volume.startswith(data)
    }

    assert made is not None
    assert mounted <= set(made[1].split(","))


def test_the_health_check_of_the_image_finds_every_service_well(deployment: Deployment) -> None:
    probed = [
        name for name in deployment.services if "ENGINESHED_PROBE" in deployment.environment(name)
    ]

    assert len(probed) == 6
    assert [trouble for name in probed if (trouble := deployment.probe(name))] == []


def listening(deployment: Deployment) -> dict[str, tuple[str, int]]:
    """Return what the parts listen on for each other, fronts of replicas included."""
    ports = {"catalog": 7001, "scheduler-1": 7002, "scheduler-2": 7002, "agent": 9090}
    found = {name: (deployment.hosts[name], port) for name, port in ports.items()}
    (status,) = (deployment.folder / "data" / "agent").glob("agent/replicas/*/status.json")
    said = json.loads(status.read_text())
    front, control = urlsplit(said["http_url"]), urlsplit(f"//{said['control_address']}")
    assert front.scheme == "https"
    found["the front"] = (front.hostname or "", front.port or 0)
    found["the front's control side"] = (control.hostname or "", control.port or 0)
    return found


def test_nobody_is_heard_in_plain_text_or_without_a_certificate(
    deployment: Deployment, endpoint: Json
) -> None:
    authority = deployment.secrets / "ca.crt"
    for what, address in listening(deployment).items():
        assert answer_in_plain_text(address) == b"", what
        assert answer_without_certificate(address, str(authority)) == b"", what


def answer_in_plain_text(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as connection:
        return said_on(connection)


def answer_without_certificate(address: tuple[str, int], authority: str) -> bytes:
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return said_on(connection)


def said_on(connection: socket.socket) -> bytes:
    """Return the answer to a request; nothing when the other side hangs up."""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return connection.recv(100)
    except OSError:
        return b""


async def test_the_broker_keeps_everything_on_three_nodes(
    deployment: Deployment, endpoint: Json
) -> None:
    kept = {
        stream: await replicas_of(
            deployment, "gateway-1" if stream.startswith("KV") else "catalog", stream
        )
        for stream in STREAMS
    }
    assert kept == dict.fromkeys(STREAMS, 3)


async def replicas_of(deployment: Deployment, service: str, stream: str) -> int | None:
    """Return on how many nodes a stream is, as a service sees it."""
    secrets = deployment.folder / service / "secrets"
    files = Tls(secrets / "tls.crt", secrets / "tls.key", secrets / "ca.crt")
    bus = await Bus.connect((secrets / "nats.url").read_text(), name="test", tls=files.to("nats"))
    try:
        async with asyncio.timeout(20):
            await bus.wait_connected()
        return (await bus.call(lambda js: js.stream_info(stream))).config.num_replicas
    finally:
        await bus.close()


def test_the_other_scheduler_takes_over(deployment: Deployment, endpoint: Json) -> None:
    """The last test: it takes one of them away."""
    leading = max(SCHEDULERS, key=lambda name: elected_at(deployment, name))

    deployment.kill(leading)

    def stopped() -> bool:
        with client(deployment, "gateway-2") as gateway:
            return gateway.post(f"/v0/dedicated_endpoints/{endpoint['id']}/stop").is_success

    wait_for("the other scheduler to lead", stopped)


def elected_at(deployment: Deployment, name: str) -> str:
    """Return when a scheduler was last elected; empty: never."""
    lines = (deployment.folder / f"{name}.log").read_text().splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    return max((line["timestamp"] for line in said if line["event"] == "elected"), default="")
