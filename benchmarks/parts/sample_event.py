"""The event that programs record: one of the scheduler's, of an ordinary size."""

from engineshed.api.scheduler.v1.events_pb2 import ReplicaReady


def replica_ready(number: int) -> ReplicaReady:
    """Return one for each number."""
    event = ReplicaReady(
        endpoint_id=f"ep_{number:026}",
        replica_id=f"rep_{number:026}",
        engine_digest=f"sha256:{number:064}",
        engine_backend="torch",
        url="http://127.0.0.1:40000",
    )
    event.effective_at.GetCurrentTime()
    return event
