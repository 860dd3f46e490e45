"""Whether what is asked for can be served on its GPUs at all, by all that is known."""

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.eventstore import EventStore
from engineshed.scheduler import measurements
from engineshed.scheduler.domain.admission import Admitted
from engineshed.scheduler.domain.measurement import Combination
from engineshed.scheduler.domain.memory import require_fit
from engineshed.scheduler.domain.support import require_supported


async def require_servable(
    store: EventStore, org_id: str, checkpoint: Checkpoint, admitted: Admitted
) -> None:
    """Refuse what certainly no engine serves so, or has no room for.

    Raises:
        InvalidFieldError: the GPUs or the architecture do not go with it.
        DoesNotFitError: it has no room, by what was measured where that is known.
        StoreUnavailableError: the database does not answer.

    """
    require_supported(checkpoint, admitted.serving, admitted.hardware)
    measured = await measured_bytes(store, org_id, checkpoint, admitted)
    require_fit(checkpoint, admitted.serving, admitted.hardware, measured)


async def measured_bytes(
    store: EventStore, org_id: str, checkpoint: Checkpoint, admitted: Admitted
) -> int:
    """Return what such an engine of the organization was seen to take of each GPU.

    Returns 0 where nobody measured, and where nothing is estimated that it could replace.

    Raises:
        StoreUnavailableError: the database does not answer.

    """
    hardware = admitted.hardware
    if not checkpoint.digest or not hardware.gpu_memory_bytes:
        return 0
    combination = Combination.of(
        org_id, checkpoint.digest, hardware.gpu_type, hardware.gpu_count, admitted.serving
    )
    return await measurements.find(store, combination, hardware.backends)
