"""What is to be said of a host's GPUs and their driver."""

from collections.abc import Iterator
from typing import Final, assert_never

from engineshed.agent.domain.doctor.checks import Check, Mark, gib
from engineshed.agent.domain.doctor.facts import Facts, Gpu, Offer, Traces, Unseen

GROUP: Final = "GPUs"


def check_gpus(facts: Facts) -> Iterator[Check]:
    """Say what is offered, by which driver, and how each GPU is connected."""
    match facts.offer:
        case Unseen(reason):
            hint = "nvidia-smi must list them; after an upgrade of the driver start the host again"
            yield Check(GROUP, "GPUs", Mark.MISSING, reason, hint)
        case Offer(simulated=True) as offer:
            found = f"{_quantity(offer)}, simulated: the CPU serves in their place"
            hint = "without ENGINESHED_SIMULATE the host offers what it has"
            yield Check(GROUP, "GPUs", Mark.WARNING, found, hint)
        case Offer(real_gpus=True) as offer:
            yield from _check_real(offer, facts.gpus)
        case Offer() as offer:
            yield _check_cpu(offer, facts.traces)
        case _:
            assert_never(facts.offer)


def _check_real(offer: Offer, gpus: tuple[Gpu, ...] | Unseen) -> Iterator[Check]:
    each = f"{gib(offer.memory_bytes)} each, compute capability {offer.compute_capability}"
    yield Check(GROUP, "GPUs", Mark.OK, f"{_quantity(offer)} ({offer.product}), {each}")
    yield Check(GROUP, "driver", Mark.OK, offer.driver)
    if isinstance(gpus, Unseen):
        yield Check(GROUP, "connections", Mark.WARNING, gpus.reason)
        return
    for index, gpu in enumerate(gpus):
        links = f"{gpu.nvlinks} NVLinks" if gpu.nvlinks else "no NVLink"
        found = ", ".join(filter(None, (gpu.uuid, gpu.pcie, links)))
        if gpu.offered:
            yield Check(GROUP, f"GPU {index}", Mark.OK, found)
        else:
            found = f"{gpu.product}, not offered: a node has GPUs of one type; {found}"
            yield Check(GROUP, f"GPU {index}", Mark.WARNING, found)


def _check_cpu(offer: Offer, traces: Traces | Unseen) -> Check:
    served = f"the CPU serves, with {offer.count} slots (ENGINESHED_SLOTS)"
    match traces:
        case Traces(kernel_driver=driver) if driver:
            found = f"out of reach, though the kernel has NVIDIA's driver {driver}: {served}"
            hint = (
                "in a container, with NVIDIA's container toolkit on the host: docker run --gpus all"
            )
            return Check(GROUP, "GPUs", Mark.WARNING, found, hint)
        case Traces(devices=devices) if devices:
            found = f"{devices} of NVIDIA on the PCI bus, without a driver: {served}"
            hint = "install NVIDIA's driver and start the host again; nvidia-smi must list them"
            return Check(GROUP, "GPUs", Mark.WARNING, found, hint)
        case _:
            return Check(GROUP, "GPUs", Mark.OK, f"none of NVIDIA: {served}")


def _quantity(offer: Offer) -> str:
    return f"{offer.count}x {offer.gpu_type}"
