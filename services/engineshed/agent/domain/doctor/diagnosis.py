"""What a host can do, by what was seen of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engineshed.agent.domain.doctor.checks import Check, Mark
from engineshed.agent.domain.doctor.facts import Backend, Facts, Offer, Unseen
from engineshed.agent.domain.doctor.gpus import check_gpus
from engineshed.agent.domain.doctor.resources import check_host
from engineshed.agent.domain.doctor.software import check_toolchain, check_torch, check_triton

BACKENDS: Final = "Back ends"
_COMPILED: Final = "tensorrt_llm"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a host can do, line by line, and what it would join a fleet as."""

    checks: tuple[Check, ...]
    offer: Offer | Unseen
    backends: tuple[str, ...]
    """Those that the agent would tell the scheduler of."""

    @property
    def can_serve(self) -> bool:
        """Whether an agent would come up here with a back end that works."""
        return isinstance(self.offer, Offer) and bool(self.backends)

    @property
    def summary(self) -> str:
        """All of it in one line."""
        if isinstance(self.offer, Unseen):
            return f"this host would not join: {self.offer.reason}"
        kind = "simulated " if self.offer.simulated else ""
        joins = f"this host would join as {kind}`{self.offer.gpu_type}` x{self.offer.count}"
        if not self.backends:
            return f"{joins}, but without a back end: nothing can be served on it"
        ends = "back end" if len(self.backends) == 1 else "back ends"
        return f"{joins} with the {ends} {', '.join(self.backends)}"


def diagnose(facts: Facts) -> Diagnosis:
    """Return what `facts` mean."""
    checks = (
        *check_gpus(facts),
        *check_triton(facts.triton),
        *check_toolchain(facts),
        *check_torch(facts),
        *check_host(facts),
        *_check_backends(facts.backends),
    )
    available = tuple(backend.name for backend in facts.backends if backend.available)
    return Diagnosis(checks, facts.offer, available)


def _check_backends(backends: tuple[Backend, ...]) -> Iterator[Check]:
    if all(backend.name != _COMPILED for backend in backends):
        found = "this release does not have it: GPUs are served by torch"
        yield Check(BACKENDS, _COMPILED, Mark.MISSING, found)
    for backend in backends:
        if backend.available:
            versions = (f"{name} {version}" for name, version in (backend.versions or {}).items())
            yield Check(BACKENDS, backend.name, Mark.OK, ", ".join(versions))
        else:
            yield Check(BACKENDS, backend.name, Mark.MISSING, backend.reason)
