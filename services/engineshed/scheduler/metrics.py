"""What the scheduler measures: whether it leads, the fleet, and how it decides."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engineshed.eventstore import Leadership
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.domain.autoscale import Scale
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointState
from engineshed.scheduler.domain.node import Node, NodeState
from engineshed.scheduler.domain.plan import Assign, Decision, Postpone
from engineshed.scheduler.domain.reclaim import Reclaim
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.view import View, queue_key
from engineshed.telemetry import Outcomes, counter, durations, gauge

_KIND = ("region", "gpu_type")

_NAMES: Final[Mapping[type[Decision], str]] = {
    Assign: "assign",
    Postpone: "postpone",
    Reclaim: "reclaim",
    Scale: "scale",
}


class LeaderMetrics(Collector):
    """Whether this process leads; standbys expose it too."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        leadership = self._leadership
        yield gauge(
            "engineshed_scheduler_leader", "1 while this scheduler leads.", float(leadership.leads)
        )
        yield gauge(
            "engineshed_scheduler_term",
            "The term that it leads in, or led; 0 before.",
            leadership.term,
        )


class FleetMetrics(Collector):
    """What there is and who waits, as the leader knows it."""

    def __init__(self, view: View, agents: Agents) -> None:
        self._view = view
        self._agents = agents

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        # Copies: both go on changing meanwhile. What is in them never does.
        yield from self._of_nodes(list(self._view.nodes.values()))
        yield from _of_endpoints(list(self._view.endpoints.values()))

    def _of_nodes(self, nodes: Sequence[Node]) -> Iterable[Metric]:
        hosts: Counter[tuple[str, ...]] = Counter()
        gpus: Counter[tuple[str, ...]] = Counter()
        taken: Counter[tuple[str, ...]] = Counter()
        for node in nodes:
            kind = (node.inventory.region, node.inventory.gpu_type)
            hosts.update({(state.name.lower(), *kind): node.state is state for state in NodeState})
            gpus[kind] += node.inventory.gpu_count * (node.state is not NodeState.LEFT)
            taken[kind] += len(self._view.holders(node.node_id))
        yield gauge("engineshed_scheduler_nodes", "GPU hosts.", hosts.items(), ("state", *_KIND))
        yield gauge("engineshed_scheduler_gpus", "GPUs of all of them.", gpus.items(), _KIND)
        yield gauge(
            "engineshed_scheduler_gpus_taken",
            "GPUs that replicas have, or are releasing.",
            taken.items(),
            _KIND,
        )
        yield gauge(
            "engineshed_scheduler_agents_connected",
            "Agents that are connected to this scheduler.",
            self._agents.connected,
        )


def _of_endpoints(endpoints: Sequence[Endpoint]) -> Iterable[Metric]:
    states = Counter({state.name.lower(): 0 for state in EndpointState})
    replicas = Counter({state.name.lower(): 0 for state in ReplicaState})
    waiting: Counter[tuple[str, ...]] = Counter()
    for endpoint in endpoints:
        states[endpoint.status.state.name.lower()] += 1
        replicas.update(one.state.name.lower() for one in endpoint.replicas if not one.ended)
        waiting[queue_key(endpoint)] += bool(endpoint.missing)
    yield gauge("engineshed_scheduler_endpoints", "Endpoints.", states, ("state",))
    yield gauge(
        "engineshed_scheduler_replicas", "Replicas whose GPUs are taken.", replicas, ("state",)
    )
    yield gauge(
        "engineshed_scheduler_queue_length",
        "Endpoints that wait for GPUs of this type in this region.",
        waiting.items(),
        _KIND,
    )


class PlanMetrics(Collector):
    """How long plans take, and what they say."""

    def __init__(self) -> None:
        self.durations = durations(
            "engineshed_scheduler_plan_duration_seconds", "One pass over the queues that changed."
        )
        self._decisions = Outcomes(*_NAMES.values())

    def note(self, decisions: Iterable[Decision]) -> None:
        """Take note of what a plan says."""
        self._decisions.update(_NAMES[type(one)] for one in decisions)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        yield from self.durations.collect()
        yield counter(
            "engineshed_scheduler_decisions",
            "Decisions: GPUs assigned to an endpoint, why it waits, replicas reclaimed from it, "
            "how many it should have.",
            self._decisions,
            ("kind",),
        )
