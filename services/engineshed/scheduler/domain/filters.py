"""How many nodes each filter turned away: the why-not of a decision, and what is waited for.

The filters are asked in this order: region, GPU type, heard, not cordoned, back end, free GPUs,
kept for the head of the queue. A node that is being drained counts as cordoned. The counts come
from indexes; no node is looked at.
"""

from dataclasses import dataclass
from datetime import datetime

from engineshed.scheduler.domain.endpoint import WAITING_TO_BE_PLACED, Endpoint
from engineshed.scheduler.domain.room import Room
from engineshed.scheduler.domain.score import Preferences
from engineshed.scheduler.domain.view import View, queue_key


@dataclass(frozen=True, slots=True)
class Census:
    """How many nodes are left after each filter."""

    known: int
    in_region: int
    of_type: int
    heard: int
    in_use: int  # not cordoned
    able: int
    free: int
    usable: int

    def rejected(self) -> dict[str, int]:
        """Return how many nodes each filter turned away, without those that turned away none."""
        counts = {
            "region": self.known - self.in_region,
            "gpu_type": self.in_region - self.of_type,
            "not_heard": self.of_type - self.heard,
            "cordoned": self.heard - self.in_use,
            "backend": self.in_use - self.able,
            "gpus_taken": self.able - self.free,
            "kept_for_head_of_queue": self.free - self.usable,
        }
        return {name: count for name, count in counts.items() if count}


def census(view: View, endpoint: Endpoint, preferences: Preferences, room: Room) -> Census:
    """Count the nodes that are left for an endpoint after each filter."""
    offers = view.offers()
    in_region = [offer for offer in offers if offer.region == endpoint.region]
    of_type = [offer for offer in in_region if offer.gpu_type == endpoint.placing.gpu_type]
    gpu_count, backends = preferences.gpu_count, preferences.backends
    free = room.count(backends, gpu_count)
    kept = room.nomination
    spared = (
        kept is not None
        and room.free(kept.node_id) >= gpu_count
        and not room.fits(kept.node_id, gpu_count, backends)
    )
    return Census(
        known=sum(offer.nodes for offer in offers),
        in_region=sum(offer.nodes for offer in in_region),
        of_type=sum(offer.nodes for offer in of_type),
        heard=room.count() + room.cordoned,
        in_use=room.count(),
        able=room.count(backends),
        free=free,
        usable=free - spared,
    )


def why_waiting(endpoint: Endpoint, preferences: Preferences, room: Room) -> str:
    """Return what an endpoint waits for; it stays the same while it waits for the same."""
    where = f"{endpoint.placing.gpu_type} node in {endpoint.region}"
    if not room.count():
        missing = "all that are heard are cordoned" if room.cordoned else "none is heard"
        return f"waiting for a {where}: {missing}"
    if not room.count(preferences.backends):
        return (
            f"waiting for a {where} with the back end {' or '.join(sorted(preferences.backends))}"
        )
    if preferences.gpu_count == 1:
        return f"waiting for a free GPU on a {where}"
    return f"waiting for {preferences.gpu_count} free GPUs on one {where}"


def what_is_missing(view: View, endpoint: Endpoint, now: datetime) -> str:
    """Return how many replicas are not placed and what they wait for; "" when all are placed."""
    missing = endpoint.missing
    if not missing:
        return ""
    are = "is" if missing == 1 else "are"
    reason = why_missing(view, endpoint, now)
    return f"{missing} of {endpoint.wanted} replicas {are} not placed: {reason}"


def why_missing(view: View, endpoint: Endpoint, now: datetime) -> str:
    """Return what those replicas of an endpoint wait for that are not placed."""
    if endpoint.retry_at is not None and endpoint.retry_at > now:
        return f"trying again after {endpoint.failures[-1].summary}"
    key = queue_key(endpoint)
    preferences, room = Preferences(endpoint), Room(view.pools(key), view.cordoned(key))
    if room.count(preferences.backends, preferences.gpu_count):
        return WAITING_TO_BE_PLACED  # in a moment, or after the head of the queue
    return why_waiting(endpoint, preferences, room)
