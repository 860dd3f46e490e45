"""A scheduler with TLS: an agent joins only as the host that its certificate names."""

import json
from collections.abc import Iterator
from threading import Event

import grpc
import pytest
from tests.service.certificates import Certificates

from engineshed import ids
from engineshed.api.agent.v1.agent_service_pb2 import ConnectRequest, Hello, NodeStatus
from engineshed.api.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from engineshed.api.scheduler.v1.node_service_pb2 import NodeInventory
from engineshed.rpc import LEADER
from engineshed.rpc.tls import channel_credentials
from engineshed.runtime.tls import Tls, part_name

from .scripted_agent import TOKEN
from .stack import DEADLINE, Stack


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def address(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    files = certificates.of("scheduler")
    # It finds neither broker nor catalog, which have no certificates; agents may join all the same.
    stack = Stack(
        tmp_path_factory.mktemp("tls"),
        ENGINESHED_TLS_CERT_FILE=str(files.certificate),
        ENGINESHED_TLS_KEY_FILE=str(files.key),
        ENGINESHED_TLS_CA_FILE=str(files.authority),
    )
    try:
        stack.start()
        yield stack.address
    finally:
        stack.close()


def join(address: str, files: Tls, node_id: str, hostname: str) -> grpc.StatusCode:
    """Connect as an agent does; return how that ends: OK once it is told what to run.

    With gRPC's blocking client, as in `scripted_agent.refusal`.
    """
    inventory = NodeInventory(
        hostname=hostname, region="local", gpu_type="cpu", gpu_count=1, backends=["torch"]
    )
    hello = Hello(node_id=node_id, inventory=inventory, boot_id="boot")
    told = Event()

    def messages() -> Iterator[ConnectRequest]:
        yield ConnectRequest(hello=hello)
        yield ConnectRequest(status=NodeStatus())
        told.wait(DEADLINE)

    leading = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": LEADER},
    }
    options = [
        ("grpc.default_authority", part_name("scheduler")),
        ("grpc.service_config", json.dumps(leading)),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    with grpc.secure_channel(address, channel_credentials(files), options) as channel:
        call = AgentServiceStub(channel).Connect(
            messages(),
            metadata=(("authorization", f"Bearer {TOKEN}"),),
            wait_for_ready=True,
            timeout=DEADLINE,
        )
        try:
            next(call)
        except grpc.RpcError:
            code: grpc.StatusCode = call.code()
            return code
        finally:
            told.set()
    return grpc.StatusCode.OK


def test_an_agent_joins_as_the_host_that_its_certificate_names(
    address: str, certificates: Certificates
) -> None:
    files = certificates.of_agent("gpu-1")
    assert join(address, files, ids.new(ids.NODE), "GPU-1") is grpc.StatusCode.OK


def test_an_agent_cannot_claim_to_be_another_host(address: str, certificates: Certificates) -> None:
    files = certificates.of_agent("gpu-2")

    refused = join(address, files, ids.new(ids.NODE), "gpu-1")

    assert refused is grpc.StatusCode.PERMISSION_DENIED


def test_a_silent_node_cannot_be_claimed_from_another_host(
    address: str, certificates: Certificates
) -> None:
    node_id = ids.new(ids.NODE)
    assert join(address, certificates.of_agent("gpu-1"), node_id, "gpu-1") is grpc.StatusCode.OK

    claimed = join(address, certificates.of_agent("gpu-2"), node_id, "gpu-2")

    assert claimed is grpc.StatusCode.PERMISSION_DENIED


def test_a_services_certificate_does_not_make_an_agent(
    address: str, certificates: Certificates
) -> None:
    refused = join(address, certificates.of("gateway"), ids.new(ids.NODE), "gpu-1")
    assert refused is grpc.StatusCode.PERMISSION_DENIED
