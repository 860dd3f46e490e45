"""What the missing replicas of an endpoint wait for, as plan() sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.filters import census, why_missing
from engineshed.scheduler.domain.plan import plan_queue
from engineshed.scheduler.domain.score import Policy, Preferences
from engineshed.scheduler.domain.view import View, queue_key


@dataclass(frozen=True, slots=True)
class Wait:
    """Why replicas are not placed."""

    missing: int
    reason: str
    position: int  # in the queue, from 1
    length: int  # of the queue
    retry_at: datetime | None  # None: as soon as there is room
    rejected: Mapping[str, int]  # nodes turned away, by filter
    nominated: str  # the node that is kept for it; "": none


def explain_wait(view: View, endpoint: Endpoint, policy: Policy, now: datetime) -> Wait | None:
    """Return what an endpoint in the view waits for; None when nothing of it is missing."""
    missing = endpoint.missing
    if not missing:
        return None
    key = queue_key(endpoint)
    planned = plan_queue(view, key, policy, now)
    kept = planned.room.nomination
    retry_at = endpoint.retry_at
    is_head = planned.head == endpoint.endpoint_id
    return Wait(
        missing=missing,
        reason=why_missing(view, endpoint, now),
        position=view.queue_position(endpoint),
        length=sum(1 for _ in view.queue(key)),
        retry_at=retry_at if retry_at is not None and retry_at > now else None,
        rejected=census(view, endpoint, Preferences(endpoint), planned.room).rejected(),
        nominated=kept.node_id if kept is not None and is_head else "",
    )
