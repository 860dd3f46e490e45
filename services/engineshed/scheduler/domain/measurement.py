"""What engines were seen to take of their GPUs, by what decides it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointEvent
from engineshed.scheduler.domain.replica import Serving


@dataclass(frozen=True, slots=True)
class Combination:
    """Whose model it is, how it is served and on what: such engines take the same memory.

    How much of what is free the pool takes is not among it: that is not measured.
    """

    org_id: str
    checkpoint_digest: str
    gpu_type: str
    gpu_count: int
    precision: str
    quantization: str
    max_context: int
    max_batch_size: int
    max_batch_tokens: int

    @classmethod
    def of(
        cls, org_id: str, digest: str, gpu_type: str, gpu_count: int, serving: Serving
    ) -> "Combination":
        """Return what an organization's checkpoint of that digest makes with the rest."""
        return cls(
            org_id,
            digest,
            gpu_type,
            gpu_count,
            serving.precision,
            serving.quantization,
            serving.max_context,
            serving.max_batch_size,
            serving.max_batch_tokens,
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """What an engine was seen to take of each GPU, in bytes, without its pool."""

    combination: Combination
    engine_backend: str
    memory_bytes: int


def measured(state: Endpoint, events: Iterable[EndpointEvent]) -> Iterator[Measurement]:
    """Yield what `events`, which are folded into `state` already, say of memory."""
    for event in events:
        if not isinstance(event, pb.ReplicaReady) or not event.engine_memory_bytes:
            continue
        replica = state.replica(event.replica_id)
        assert replica is not None, "what is ready was placed"
        deployment = replica.deployment
        yield Measurement(
            Combination.of(
                state.org_id,
                deployment.checkpoint.digest,
                deployment.gpu_type,
                deployment.gpu_count,
                deployment.serving,
            ),
            event.engine_backend,
            event.engine_memory_bytes,
        )
