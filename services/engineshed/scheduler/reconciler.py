"""The loop that makes endpoints true: observe, plan, record, then tell gateways and nodes.

Every turn looks at what is, not at what happened, so it does not matter where the turn before it
ended, or the process.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from engineshed import ids
from engineshed.errors import DomainError, Kind
from engineshed.eventstore import NotLeaderError
from engineshed.runtime import utc_now
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.domain.desired import SecretOf, desired_replicas
from engineshed.scheduler.domain.node import Miss, NodeState
from engineshed.scheduler.domain.plan import Decision, Postpone, plan
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.upkeep import Errand, carried_out, evacuations, losses, removals
from engineshed.scheduler.domain.view import Changes
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal, together
from engineshed.scheduler.loads import Loads
from engineshed.scheduler.metrics import PlanMetrics
from engineshed.scheduler.nodes import Nodes
from engineshed.scheduler.plan_log import PlanLog
from engineshed.scheduler.routes import Routes

# Seconds from one turn to the next when nothing happens, and after one that failed.
_TURN_S: Final = 0.5

# Seconds from one look at all leases to the next, however often turns are taken.
_LEASES_S: Final = 0.25

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Reconciler:
    """Decides and tells, for as long as the process leads."""

    def __init__(
        self,
        journal: Journal,
        endpoints: Endpoints,
        nodes: Nodes,
        agents: Agents,
        routes: Routes,
        loads: Loads,
        plans: PlanLog,
        secret_of: SecretOf,
        *,
        policy: Policy,
        lease_s: float,
        drain_timeout: timedelta,
    ) -> None:
        self._journal = journal
        self._endpoints = endpoints
        self._nodes = nodes
        self._agents = agents
        self._routes = routes
        self._loads = loads
        self._plans = plans
        self._secret_of = secret_of
        self._policy = policy
        self._lease_s = lease_s
        self._drain_timeout = drain_timeout
        self.metrics = PlanMetrics()
        self._todo = Changes()
        self._leases_at = asyncio.get_running_loop().time()
        self._settled = False
        self._settled_by = asyncio.get_running_loop().time() + lease_s

    async def run(self) -> None:
        """Take turns until cancelled: at once when something changes, else again and again."""
        while True:
            self._journal.changed.clear()
            try:
                await self._decide()
            except DomainError as error:
                if error.kind is not Kind.UNAVAILABLE or isinstance(error, NotLeaderError):
                    raise
                log.warning("nothing can be recorded now", error=error.message)
            self._look()
            await self._tell()
            await self._wait()

    async def _wait(self) -> None:
        pause = _TURN_S
        retry_at = self._journal.view.next_retry()
        if retry_at is not None:
            pause = min(pause, max(0.0, (retry_at - utc_now()).total_seconds()))
        try:
            async with asyncio.timeout(pause):
                await self._journal.changed.wait()
        except TimeoutError:
            return

    async def _decide(self) -> None:
        """Record what is to be done; what cannot be recorded now is decided anew next time."""
        await self._notice_silence()
        await self._evacuate()
        await self._clear()
        now = utc_now()
        self._settle()
        self._journal.view.wake_due(now)
        self._todo.queues |= self._loads.reclaimable(now)
        self._look()
        async with self._journal.placing:
            with self.metrics.durations.time():
                view, signals = self._journal.view, self._loads.take(self._todo.queues, now)
                decisions = plan(view, self._todo.queues, self._policy, now, signals)
            self.metrics.note(decisions)
            self._plans.note(decisions, now, queues=self._todo.queues, signals=signals)
            await self._record(decisions)
        self._todo.queues.clear()

    def _look(self) -> None:
        """Add what has changed to what is to be done."""
        changes = self._journal.view.take_changes()
        self._todo.queues |= changes.queues
        self._todo.endpoints |= changes.endpoints
        self._todo.nodes |= changes.nodes

    def _settle(self) -> None:
        """Find out whether the picture is complete after the start.

        Before every joined node was heard, or had the time of a lease to speak, nobody is told
        that there is no room.
        """
        if self._settled:
            return
        late = asyncio.get_running_loop().time() >= self._settled_by
        if late or not any(True for _ in self._journal.view.unreported()):
            self._settled = True
            self._todo.queues |= set(self._journal.view.queues)

    async def _notice_silence(self) -> None:
        """Record which nodes are not heard any more, and which replicas are lost with them."""
        clock = asyncio.get_running_loop().time()
        if clock < self._leases_at:
            return
        self._leases_at = clock + _LEASES_S
        nodes = self._journal.view.nodes
        heard = [one for one, node in nodes.items() if node.heard]
        for node_id, heard_at in list(self._agents.silent(heard, self._lease_s)):
            log.warning("node lost", node_id=node_id, heard_at=heard_at.isoformat())
            await self._nodes.command(node_id, Miss(heard_at))
        for node in list(nodes.values()):
            if node.state is NodeState.LOST and node.heard_at is not None:
                await self._lose_replicas(node.node_id, node.heard_at)

    async def _lose_replicas(self, node_id: str, heard_at: datetime) -> None:
        await self._run(losses(self._journal.view, node_id, heard_at))

    async def _evacuate(self) -> None:
        """Let the replicas on draining nodes be replaced."""
        await self._run(evacuations(self._journal.view))

    async def _clear(self) -> None:
        """End what is on nodes that have left, and then their connections."""
        view = self._journal.view
        for node_id in view.left_nodes:
            at = self._agents.heard_at(node_id) or utc_now()
            await self._run(removals(view, node_id, at))
            if view.nodes[node_id].state is NodeState.LEFT:  # it may have joined again meanwhile
                self._agents.dismiss(node_id)

    async def _record(self, decisions: Sequence[Decision]) -> None:
        decided = [one for one in decisions if self._settled or not isinstance(one, Postpone)]
        await self._run(carried_out(one, lambda: ids.new(ids.REPLICA)) for one in decided)

    async def _run(self, errands: Iterable[Errand]) -> None:
        await together(self._endpoints.act(one.endpoint_id, one.command) for one in errands)

    async def _tell(self) -> None:
        """Tell gateways first, then nodes.

        What nodes are told is what is true now, and not what becomes true while the gateways are
        being told: so whatever is to drain has left its route.
        """
        view, todo = self._journal.view, self._todo
        desired = {
            node_id: desired_replicas(view, node_id, self._secret_of, self._drain_timeout)
            for node_id in todo.nodes
        }
        endpoints = set(todo.endpoints)
        todo.nodes.clear()
        todo.endpoints.clear()
        await self._routes.publish(endpoints)
        for node_id, replicas in desired.items():
            self._agents.send(node_id, replicas)
