"""Looking at all of the host at once, and telling what it means."""

import logging
import sys
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from engineshed.agent.doctor.gpus import look_at_connections, look_for_traces, offer_of
from engineshed.agent.doctor.looking import LOOK_SECONDS, Look
from engineshed.agent.doctor.resources import look_at_limits, look_at_machine, look_at_space
from engineshed.agent.doctor.software import (
    TORCH_SECONDS,
    look_at_toolchain,
    look_at_torch,
    look_at_triton,
)
from engineshed.agent.doctor.table import as_json, as_table
from engineshed.agent.domain.doctor.diagnosis import diagnose
from engineshed.agent.domain.doctor.facts import Backend, Facts, Gpu, Offer, Unseen
from engineshed.agent.engines.interface import EngineBackend, Hardware, Probe
from engineshed.agent.engines.known import known_backends
from engineshed.agent.inventory import take_inventory
from engineshed.agent.settings import AgentSettings

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where it is


class _HostSettings(AgentSettings):
    """An agent's settings on a host where none runs: what only a running one needs is left out."""

    state_dir: Path = Path(".state")
    artifact_store: str = "file:///"
    service_token_file: Path = Path()
    services_file: Path = Path()


def run_doctor(*, json: bool) -> int:
    """Print the diagnosis of this host on standard output and return the exit status."""
    # What the agent logs of GPUs stands in the table; standard output belongs to that.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        settings = _HostSettings()
    except ValidationError as error:
        for problem in error.errors():
            variable = "_".join(("ENGINESHED", *map(str, problem["loc"]))).upper()
            sys.stderr.write(f"error: {variable}: {problem['msg']}\n")
        return 2
    diagnosis = diagnose(look_at_host(settings))
    sys.stdout.write((as_json if json else as_table)(diagnosis) + "\n")
    return 0 if diagnosis.can_serve else 1


def look_at_host(settings: AgentSettings) -> Facts:
    """Look at everything at the same time, and ask the back ends once the GPUs are known.

    Never raises; takes as long as the slowest look, and as the GPUs' with a back end's.
    """
    gpus = Look(lambda: _look_at_gpus(settings))
    traces = Look(look_for_traces)
    triton = Look(look_at_triton)
    toolchain = Look(lambda: look_at_toolchain(settings.tensorrt_llm_dir))
    torch = Look(look_at_torch, TORCH_SECONDS + LOOK_SECONDS)  # it ends its process in time
    machine = Look(look_at_machine)
    shared_memory = Look(lambda: look_at_space(_SHARED_MEMORY))
    disk = Look(lambda: look_at_space(settings.folder))
    limits = Look(look_at_limits)
    seen = gpus.seen()
    offer, connected = (seen, seen) if isinstance(seen, Unseen) else seen
    probes = [(backend, Look(backend.probe)) for backend in _backends(settings, offer)]
    return Facts(
        offer=offer,
        gpus=connected,
        traces=traces.seen(),
        triton=triton.seen(),
        toolchain=toolchain.seen(),
        torch=torch.seen(),
        machine=machine.seen(),
        shared_memory=shared_memory.seen(),
        disk=disk.seen(),
        limits=limits.seen(),
        backends=tuple(_told(backend, probe.seen()) for backend, probe in probes),
    )


def _look_at_gpus(settings: AgentSettings) -> tuple[Offer, tuple[Gpu, ...] | Unseen]:
    inventory = take_inventory(settings)
    if not inventory.gpus:
        return offer_of(inventory), ()
    connected = Look(lambda: look_at_connections([gpu.uuid for gpu in inventory.gpus]), seconds=5)
    return offer_of(inventory), connected.seen()


def _backends(settings: AgentSettings, offer: Offer | Unseen) -> tuple[EngineBackend, ...]:
    hardware = Hardware()
    if isinstance(offer, Offer) and offer.real_gpus:
        hardware = Hardware(offer.product, architecture=offer.compute_capability)
    return known_backends(
        hardware,
        tensorrt_llm_dir=settings.tensorrt_llm_dir,
        calibration_dir=settings.calibration_dir,
        build_stall_s=settings.build_stall_s,
    )


def _told(backend: EngineBackend, probe: Probe | Unseen) -> Backend:
    if isinstance(probe, Unseen):
        return Backend(backend.name, available=False, reason=probe.reason)
    return Backend(backend.name, probe.available, probe.reason, probe.versions)
