"""What the agent makes of what NVIDIA's driver says, with a stand-in for the driver."""

import json
from pathlib import Path

import pynvml
import pytest
from tests.service.agent.stand_in_driver import pynvml as stand_in

from engineshed.agent import gpus
from engineshed.agent.gpus import GpusUnreadableError, gpu_type_of
from engineshed.agent.inventory import take_inventory
from engineshed.agent.settings import AgentSettings

A_GPU = {"uuid": "GPU-a"}
ANOTHER = {"uuid": "GPU-b"}
USABLE_BYTES = 150109880320  # what PyTorch says of the same H200


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch):
    """Put the stand-in where the driver's library would be; return what adds GPUs to the host."""
    monkeypatch.setattr(gpus, "pynvml", stand_in)
    monkeypatch.delenv("STAND_IN_GPUS", raising=False)

    def has(*found: dict[str, object]) -> None:
        monkeypatch.setenv("STAND_IN_GPUS", json.dumps(found))

    return has


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes settings of an agent."""
    for name, value in {
        "STATE_DIR": tmp_path,
        "ARTIFACT_STORE": tmp_path.as_uri(),
        "SERVICES_FILE": tmp_path,
        "SERVICE_TOKEN_FILE": tmp_path,
        "SLOTS": "3",
    }.items():
        monkeypatch.setenv(f"ENGINESHED_{name}", str(value))
    return AgentSettings


def test_the_stand_in_has_no_name_that_the_library_lacks() -> None:
    assert [name for name in vars(stand_in) if name.lower().startswith("nvml")]
    for name in vars(stand_in):
        if name.lower().startswith("nvml"):
            assert hasattr(pynvml, name), name
    assert stand_in.nvmlMemory_v2 == pynvml.nvmlMemory_v2


def test_gpus_are_offered_as_the_driver_says(driver, settings) -> None:
    driver(A_GPU, ANOTHER)

    inventory = take_inventory(settings())
    told = inventory.message(["torch"], {"torch": "2.13.0"})

    assert (told.gpu_type, told.gpu_count, told.simulated) == ("h200-sxm", 2, False)
    assert told.gpu_memory_bytes == USABLE_BYTES
    assert told.driver == "580.159.04"
    assert (told.gpu_product, told.compute_capability) == ("NVIDIA H200", "9.0")
    assert list(told.gpu_uuids) == [gpu.uuid for gpu in inventory.gpus]
    assert dict(told.versions) == {"torch": "2.13.0"}


def test_an_engine_is_for_the_real_product_its_architecture_and_its_driver(
    driver, settings
) -> None:
    driver(A_GPU)

    hardware = take_inventory(settings()).hardware(1)

    assert (hardware.product, hardware.architecture) == ("NVIDIA H200", "9.0")
    assert (hardware.driver, hardware.memory_bytes) == ("580", USABLE_BYTES)


def test_a_replica_sees_its_own_gpus_by_what_never_changes_of_them(driver, settings) -> None:
    driver(A_GPU, ANOTHER, {"uuid": "GPU-c"})

    assert take_inventory(settings()).visible([2, 0]) == ("GPU-c", "GPU-a")


def test_a_host_without_a_driver_serves_from_its_cpu(driver, settings) -> None:
    inventory = take_inventory(settings())

    assert (inventory.gpu_type, inventory.gpu_count, inventory.visible([1])) == ("cpu", 3, ())
    assert inventory.hardware(1).product == "cpu"


def test_a_driver_without_gpus_leaves_the_host_to_its_cpu(driver, settings) -> None:
    driver()

    assert take_inventory(settings()).gpu_type == "cpu"


def test_a_broken_driver_makes_no_cpu_host_of_a_gpu_host(
    driver, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(A_GPU)
    monkeypatch.setenv("STAND_IN_DRIVER_FAULT", "NVMLError_LibRmVersionMismatch")

    with pytest.raises(GpusUnreadableError, match="NVMLError_LibRmVersionMismatch"):
        take_inventory(settings())


def test_what_is_simulated_stays_so_on_a_host_with_gpus(
    driver, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(A_GPU)
    monkeypatch.setenv("ENGINESHED_SIMULATE", "h100-sxm:8")

    inventory = take_inventory(settings())

    assert (inventory.gpu_type, inventory.gpu_count, inventory.simulated) == ("h100-sxm", 8, True)
    assert inventory.visible([0]) == ()
    assert inventory.hardware(1).product == "cpu"


def test_a_node_offers_the_gpus_of_its_commonest_type_only(driver, settings) -> None:
    display = {"uuid": "GPU-display", "name": "NVIDIA T400", "capability": [7, 5]}
    driver(display, A_GPU, ANOTHER)

    inventory = take_inventory(settings())

    assert (inventory.gpu_type, inventory.gpu_count) == ("h200-sxm", 2)
    assert inventory.visible([0, 1]) == ("GPU-a", "GPU-b")


@pytest.mark.parametrize(
    ("product", "gpu_type"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA B200", "b200-sxm"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("NVIDIA GH200 144G HBM3e", "gh200-144gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("Tesla V100-SXM2-32GB", "v100-sxm-32gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_the_type_of_a_gpu_is_told_by_its_name(product: str, gpu_type: str) -> None:
    assert gpu_type_of(product) == gpu_type
