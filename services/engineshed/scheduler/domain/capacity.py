"""Whether an endpoint that must not wait gets all its GPUs now."""

from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.errors import (
    CapacityUnknownError,
    CheckpointNotReadyError,
    NoCapacityError,
)
from engineshed.scheduler.domain.filters import why_waiting
from engineshed.scheduler.domain.room import Room
from engineshed.scheduler.domain.score import Preferences
from engineshed.scheduler.domain.view import QueueKey, View, queue_key


def require_capacity(view: View, newcomer: Endpoint, placeable: int) -> None:
    """Refuse an endpoint some of whose replicas would wait.

    Args:
        view: what is, without the newcomer.
        newcomer: the endpoint that is asked for.
        placeable: how many of its replicas would be placed now.

    Raises:
        CheckpointNotReadyError: GPUs are not reserved for what cannot be served yet.
        CapacityUnknownError: a node that could have room has not said yet what it runs.
        NoCapacityError: it says how many would wait, for what, and behind how many.

    """
    checkpoint = newcomer.checkpoint
    if not checkpoint.digest:
        raise CheckpointNotReadyError(
            f"checkpoint {checkpoint.checkpoint_id} is still being registered, so no GPUs can be "
            "reserved for it now; wait until it is, or let the endpoint queue",
            checkpoint_id=checkpoint.checkpoint_id,
        )
    if placeable == newcomer.wanted:
        return
    key = queue_key(newcomer)
    if any(_could_serve(view, node_id, key) for node_id in view.unreported()):
        raise CapacityUnknownError(
            "a node that could have room has not said yet what it runs; try again in a moment"
        )
    preferences, room = Preferences(newcomer), Room(view.pools(key), view.cordoned(key))
    before = sum(1 for _ in view.queue(key))
    waiting = newcomer.wanted - placeable
    message = (
        f"{waiting} of {newcomer.wanted} replicas would wait: "
        f"{why_waiting(newcomer, preferences, room)}"
    )
    if before:
        message += f", in place {before + 1} of its queue"
    raise NoCapacityError(
        f"{message}; free GPUs, or let the endpoint queue",
        gpu_type=newcomer.gpu_type,
        region=newcomer.region,
        wanted_replicas=newcomer.wanted,
        placeable_replicas=placeable,
        queue_position=before + 1,
    )


def _could_serve(view: View, node_id: str, key: QueueKey) -> bool:
    inventory = view.nodes[node_id].inventory
    return (inventory.region, inventory.gpu_type) == key
