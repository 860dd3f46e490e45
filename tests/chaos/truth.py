"""Whether endpoints are as their owners were told, and what the others wait for is true.

All of it is looked up in what the API shows of endpoints, their explanations and hosts; nothing of
it is asked of the scheduler's own code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.clients import Json
from tests.chaos.owners import is_done

_ENDED: Final = ("stopped", "failed")
_IN_USE: Final = "joined"
_HEARD: Final = ("joined", "cordoned", "draining")
_TO_BE_PLACED: Final = "waiting to be placed"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The hosts, as they are shown, and the one that is kept for the head of each queue."""

    hosts: Sequence[Json]
    kept: Mapping[tuple[str, str], str]  # host by region and GPU type

    def why_not_true(self, endpoint: Json, wait: Json) -> str:
        """Return why what an endpoint waits for is not true; "": it is."""
        region, gpu_type, count = endpoint["region"], endpoint["gpu_type"], endpoint["gpu_count"]
        kind = [
            host for host in self.hosts if host["region"] == region and host["gpu_type"] == gpu_type
        ]
        heard = [host for host in kind if host["status"] in _HEARD]
        in_use = [host for host in kind if host["status"] == _IN_USE]
        where, reason = f"{gpu_type} node in {region}", wait["reason"]
        if reason == f"waiting for a {where}: none is heard":
            return f"{len(heard)} hosts are heard" if heard else ""
        if reason == f"waiting for a {where}: all that are heard are cordoned":
            return f"{len(in_use)} hosts are in use" if in_use or not heard else ""
        amount = "a free GPU on a" if count == 1 else f"{count} free GPUs on one"
        kept = "" if wait["queue_position"] == 1 else self.kept.get((region, gpu_type), "")
        fitting = [one["node_id"] for one in in_use if _free(one) >= count]
        if reason == _TO_BE_PLACED and kept in fitting:
            reason = f"waiting for {amount} {where}"  # that one is kept for the head of the queue
        if reason != f"waiting for {amount} {where}":
            return f"nobody waits for {reason!r} for long"
        return ", ".join(f"{one} has room" for one in fitting if one != kept)


def fleet(hosts: Sequence[Json], explained: Sequence[tuple[Json, Json]]) -> Fleet:
    """Return the fleet; `explained` are endpoints and their explanations."""
    kept = {
        (endpoint["region"], endpoint["gpu_type"]): told["wait"]["nominated_node_id"]
        for endpoint, told in explained
        if told["wait"] and told["wait"]["nominated_node_id"]
    }
    return Fleet(hosts, kept)


def unsettled(endpoint: Json, *, deleted: bool) -> str:
    """Return how an endpoint is not as it was told to be; "": it is, or may wait for room.

    What it waits for is another question.
    """
    status, wanted = endpoint["status"], "terminated" if deleted else ""
    if not deleted and not endpoint["enabled"]:
        wanted = "stopped"
    if wanted and status != wanted:
        return f"is {status}, not {wanted}: {endpoint['status_reason']}"
    left = [one["replica_id"] for one in endpoint["replicas"] if one["status"] not in _ENDED]
    if wanted:
        return f"is {status}, but {left} are not" if left else ""
    if status == "idle" and is_done(endpoint):
        return ""
    if (rollout := endpoint["rollout"]) and rollout["status"] == "failed":
        return f"did not get its deployment: {rollout['reason']}"
    if status not in ("running", "queued") or not (is_done(endpoint) or waits(endpoint)):
        return f"is {status}: {endpoint['status_reason']}; {_replicas(endpoint)}"
    return ""


def waits(endpoint: Json) -> bool:
    """Tell whether replicas of an endpoint wait for room, and all others are where they should be.

    Of one that is being replaced, the old one may be there.
    """
    if endpoint["status"] == "queued":
        return all(one["status"] in _ENDED for one in endpoint["replicas"])
    present = [one["status"] for one in endpoint["replicas"] if one["status"] not in _ENDED]
    few = len(present) <= endpoint["wanted_replicas"]
    return few and set(present) <= {"ready"} and not is_done(endpoint)


def _free(host: Json) -> int:
    return sum(not gpu["replica_id"] for gpu in host["gpus"])


def _replicas(endpoint: Json) -> str:
    shown = [one for one in endpoint["replicas"] if one["status"] not in _ENDED]
    return ", ".join(f"{one['replica_id']} is {one['status']}" for one in shown) or "no replica"
