"""AgentService over gRPC: the streams on which agents report and are told what to run."""

import asyncio
from collections.abc import AsyncIterator, Set
from contextlib import suppress
from typing import Any, Final

import structlog
from grpc.aio import ServicerContext

from engineshed.api.agent.v1 import agent_service_pb2 as pb
from engineshed.api.agent.v1.agent_service_pb2_grpc import AgentServiceServicer
from engineshed.auth import ForbiddenError
from engineshed.errors import DomainError, InvalidFieldError, Kind
from engineshed.eventstore import NotLeaderError
from engineshed.rpc import current_call
from engineshed.runtime.tls import node_name
from engineshed.scheduler.agents import Agents, NodeTakenError, Session
from engineshed.scheduler.domain.node import Node
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.observations import Observations

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class AgentServicer(AgentServiceServicer):
    """Interceptors validate the messages and give errors their status before and after this."""

    def __init__(self, journal: Journal, agents: Agents, observations: Observations) -> None:
        self._journal = journal
        self._agents = agents
        self._observations = observations

    async def Connect(
        self,
        request_iterator: AsyncIterator[pb.ConnectRequest],
        context: ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Serve one connection of an agent to its end."""
        hello = await _hello(request_iterator)
        session = self._connect(hello)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._observations.greet(hello)
            tasks = [
                asyncio.create_task(self._read(request_iterator, session)),
                asyncio.create_task(self._record(session)),
            ]
            # Its desired state is made by the reconciler, like that of every node that changed.
            self._journal.view.changes.nodes.add(hello.node_id)
            self._journal.changed.set()
            async for desired in session.outgoing():
                yield pb.ConnectResponse(desired=desired)
        finally:
            self._agents.disconnect(session)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            log.info("agent disconnected", node_id=hello.node_id)

    def _connect(self, hello: pb.Hello) -> Session:
        node = self._journal.view.nodes.get(hello.node_id)
        check_host(current_call().certified, hello.inventory.hostname, node)
        lost = node is not None and not node.heard
        try:
            return self._agents.connect(hello.node_id, hello.boot_id, lost=lost)
        except NodeTakenError:
            hostname = hello.inventory.hostname
            log.warning("two hosts are one node", node_id=hello.node_id, refused=hostname)
            raise

    async def _read(self, requests: AsyncIterator[pb.ConnectRequest], session: Session) -> None:
        """Take what the agent sends; each message renews the lease, however busy we are."""
        try:
            async for request in requests:
                if not request.HasField("status"):
                    raise InvalidFieldError.of("hello", "comes once, as the first message")
                if self._agents.is_current(session):
                    self._agents.hear(session.node_id)
                    session.receive(request.status)
            session.end()
        except Exception as error:  # noqa: BLE001 - it is raised where the call is served
            session.end(error)

    async def _record(self, session: Session) -> None:
        """Record what the statuses say; what cannot be recorded now is said again."""
        try:
            async for status in session.statuses():
                try:
                    await self._observations.take(session, status)
                except DomainError as error:
                    if error.kind is not Kind.UNAVAILABLE or isinstance(error, NotLeaderError):
                        raise
                    log.warning("status not recorded", node_id=session.node_id, error=error.message)
        except Exception as error:  # noqa: BLE001 - it is raised where the call is served
            session.end(error)


def check_host(certified: Set[str], hostname: str, node: Node | None) -> None:
    """Let an agent with a certificate join only as the host that it names, the node's own.

    So another holder of the agents' token cannot come back in the name of a node that is silent.

    Args:
        certified: what the certificate names; nothing where there is no TLS.
        hostname: what the agent calls its host.
        node: the node that it wants to be, if it is known.

    Raises:
        ForbiddenError: it is another host's.

    """
    if not certified:
        return
    if node_name(hostname) not in certified:
        raise ForbiddenError(
            f"the agent's host calls itself {hostname}, so its certificate must name "
            f"{node_name(hostname)}; it names: {', '.join(sorted(certified))}"
        )
    if node is not None and node.inventory.hostname.lower() != hostname.lower():
        raise ForbiddenError(
            f"{node.node_id} is the host {node.inventory.hostname}, and this one is {hostname}; to "
            "join as another node, remove node.json from the agent's folder"
        )


async def _hello(requests: AsyncIterator[pb.ConnectRequest]) -> pb.Hello:
    with suppress(StopAsyncIteration):
        request = await anext(requests)
        if request.HasField("hello"):
            return request.hello
    raise InvalidFieldError.of("hello", "must come first")
