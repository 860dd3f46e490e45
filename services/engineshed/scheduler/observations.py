"""From what agents say to facts: commands on the endpoints whose replicas they speak of."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import structlog
from google.protobuf.duration_pb2 import Duration

from engineshed.api.agent.v1.agent_service_pb2 import Hello, NodeStatus, ReplicaStatus
from engineshed.eventstore import NotLeaderError
from engineshed.runtime import utc_now
from engineshed.scheduler.agents import Agents, Session
from engineshed.scheduler.domain.commands import Report
from engineshed.scheduler.domain.node import Greet, Hear, NodeState, inventory_of
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.report import reported
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal, together
from engineshed.scheduler.loads import Loads
from engineshed.scheduler.nodes import Nodes

# How long a replica must be missing from what its agent says until it counts as gone.
ABSENT_S: Final = 5.0

# An age beyond it is no age; it must not lead out of the calendar.
_LONGEST_AGE_S: Final = 10 * 365 * 24 * 3600.0

# Characters; what an engine said in full is in the replica's log. An event has a limit, too.
_LONGEST_REASON: Final = 2_000

# No GPU has more; it must not lead out of the database's integers.
_MOST_MEMORY_BYTES: Final = 2**50

_ENDED: Final = (ReplicaState.STOPPED, ReplicaState.FAILED)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Observations:
    """Records what agents say."""

    def __init__(
        self, journal: Journal, agents: Agents, endpoints: Endpoints, nodes: Nodes, loads: Loads
    ) -> None:
        self._journal = journal
        self._agents = agents
        self._endpoints = endpoints
        self._nodes = nodes
        self._loads = loads

    async def greet(self, hello: Hello) -> None:
        """Record that a node has joined, returned or changed."""
        await self._nodes.command(
            hello.node_id, Greet(hello.node_id, inventory_of(hello.inventory))
        )
        log.info("agent connected", node_id=hello.node_id, hostname=hello.inventory.hostname)

    async def take(self, session: Session, status: NodeStatus) -> None:
        """Record what is new in an agent's status.

        Raises:
            NotLeaderError: the agent obeys a later leader.
            StoreUnavailableError: it cannot be recorded now; the next status says it again.

        """
        node_id, view = session.node_id, self._journal.view
        now = utc_now()  # ages count from here, however long recording takes
        if status.term > self._journal.term:
            raise NotLeaderError(
                f"{node_id} obeys the leader of term {status.term}; this is {self._journal.term}"
            )
        if view.nodes[node_id].state is NodeState.LOST:
            await self._nodes.command(node_id, Hear())
        reports = [
            (endpoint_id, report)
            for endpoint_id, report in self._reports(node_id, status, now)
            if self._says_more(endpoint_id, report, now)
        ]
        if not self._agents.is_current(session):
            return  # a newer connection knows better
        self._agents.note(node_id, status)
        view.note_report(node_id, self._foreign_gpus(node_id, status))
        self._loads.note(node_id, status, now)
        if view.changes:
            self._journal.changed.set()
        await together(self._endpoints.act(one, report) for one, report in reports)
        if self._agents.is_current(session):
            self._agents.note_recorded(node_id)

    def _reports(
        self, node_id: str, status: NodeStatus, now: datetime
    ) -> Iterator[tuple[str, Report]]:
        view = self._journal.view
        for replica in status.replicas:
            endpoint_id = view.endpoint_on(node_id, replica.replica_id)
            if endpoint_id is not None:
                yield endpoint_id, _report(replica, now)
        expected = {replica.replica_id: endpoint for endpoint, replica in view.replicas_on(node_id)}
        for replica_id, age in self._agents.gone(node_id, expected, status, ABSENT_S).items():
            log.warning("replica is gone", node_id=node_id, replica_id=replica_id)
            gone = Report(
                replica_id,
                ReplicaState.FAILED,
                now - age,
                code="REPLICA_GONE",
                reason="its node does not know it any more",
            )
            draining = expected[replica_id].replica(replica_id)
            if draining is not None and draining.state is ReplicaState.DRAINING:
                gone = Report(replica_id, ReplicaState.STOPPED, now - age)
            yield expected[replica_id].endpoint_id, gone

    def _says_more(self, endpoint_id: str, report: Report, now: datetime) -> bool:
        """Tell whether a report is more than what is recorded, or being recorded.

        Most reports say what is known, so that costs little.
        """
        endpoint = self._journal.view.endpoints[endpoint_id]
        return self._endpoints.is_busy(endpoint_id) or bool(reported(endpoint, report, now))

    def _foreign_gpus(self, node_id: str, status: NodeStatus) -> set[int]:
        """Return the GPUs that replicas use which should not be there (any more)."""
        view = self._journal.view
        gpus: set[int] = set()
        for replica in status.replicas:
            if ReplicaState(replica.state) in _ENDED or view.endpoint_on(
                node_id, replica.replica_id
            ):
                continue
            log.warning("foreign replica", node_id=node_id, replica_id=replica.replica_id)
            endpoint = view.endpoints.get(replica.endpoint_id)
            known = endpoint.replica(replica.replica_id) if endpoint else None
            # Of one that was never recorded nobody can say which GPUs it uses.
            everything = range(view.nodes[node_id].inventory.gpu_count)
            gpus.update(known.gpus if known and known.node_id == node_id else everything)
        return gpus


def _report(status: ReplicaStatus, now: datetime) -> Report:
    return Report(
        replica_id=status.replica_id,
        state=ReplicaState(status.state),
        since=now - _age(status.state_age),
        code=status.code,
        reason=status.reason[:_LONGEST_REASON],
        retryable=status.retryable,
        engine_digest=status.engine_digest,
        engine_backend=status.engine_backend,
        engine_kind=status.engine_kind,
        url=status.url,
        engine_memory_bytes=_measured(status.engine_memory_bytes),
    )


def _measured(memory_bytes: int) -> int:
    return memory_bytes if memory_bytes <= _MOST_MEMORY_BYTES else 0


def _age(said: Duration) -> timedelta:
    seconds = said.seconds + said.nanos / 1e9
    return timedelta(seconds=min(max(0.0, seconds), _LONGEST_AGE_S))
