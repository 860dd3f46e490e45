"""NodeService over gRPC."""

from itertools import islice
from typing import Any

from grpc.aio import ServicerContext

from engineshed import ids
from engineshed.api.scheduler.v1 import node_service_pb2 as pb
from engineshed.api.scheduler.v1.node_service_pb2_grpc import NodeServiceServicer
from engineshed.rpc import current_call
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.calls import (
    DEFAULT_PAGE_SIZE,
    by_caller,
    invalid_page_token,
    key_of,
    page_token,
)
from engineshed.scheduler.domain.errors import NodeNotFoundError
from engineshed.scheduler.domain.node import (
    Cordon,
    Drain,
    Node,
    NodeCommand,
    NodeState,
    Remove,
    Uncordon,
)
from engineshed.scheduler.domain.view import View
from engineshed.scheduler.nodes import Nodes
from engineshed.scheduler.rendering import node_message


class NodeServicer(NodeServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(self, view: View, nodes: Nodes, agents: Agents) -> None:
        self._view = view
        self._nodes = nodes
        self._agents = agents

    async def GetNode(
        self, request: pb.GetNodeRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetNodeResponse:
        """Return one node with who holds its GPUs, also one that has left."""
        return pb.GetNodeResponse(node=self._shown(self._known(request.node_id)))

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListNodesResponse:
        """Return a page of the nodes that have not left, in the order in which they first joined.

        A page may be shorter than was asked for though more follow.
        """
        size = request.page_size or DEFAULT_PAGE_SIZE
        begin = self._begin(key_of(request.page_token))
        page = islice(self._view.nodes.values(), begin, begin + size)
        here = [node for node in page if node.state is not NodeState.LEFT]
        more = begin + size < len(self._view.nodes)
        return pb.ListNodesResponse(
            nodes=[self._shown(node) for node in here],
            next_page_token=page_token(str(begin + size)) if more else "",
        )

    async def CordonNode(
        self, request: pb.CordonNodeRequest, context: ServicerContext[Any, Any]
    ) -> pb.CordonNodeResponse:
        """Give a node no new replicas."""
        node = await self._command(request.node_id, Cordon(request.reason))
        return pb.CordonNodeResponse(node=node)

    async def UncordonNode(
        self, request: pb.UncordonNodeRequest, context: ServicerContext[Any, Any]
    ) -> pb.UncordonNodeResponse:
        """Let a node take replicas again."""
        node = await self._command(request.node_id, Uncordon())
        return pb.UncordonNodeResponse(node=node)

    async def DrainNode(
        self, request: pb.DrainNodeRequest, context: ServicerContext[Any, Any]
    ) -> pb.DrainNodeResponse:
        """Let the reconciler replace the node's replicas elsewhere."""
        node = await self._command(request.node_id, Drain(request.reason))
        return pb.DrainNodeResponse(node=node)

    async def RemoveNode(
        self, request: pb.RemoveNodeRequest, context: ServicerContext[Any, Any]
    ) -> pb.RemoveNodeResponse:
        """Take a node out; the reconciler ends what is on it, and its connection."""
        on_it = sorted(one.replica_id for _, one in self._view.replicas_on(request.node_id))
        command = Remove(tuple(on_it), request.reason, request.force)
        return pb.RemoveNodeResponse(node=await self._command(request.node_id, command))

    async def _command(self, node_id: str, command: NodeCommand) -> pb.Node:
        self._known(node_id)
        metadata = by_caller(current_call(), ids.PLATFORM)
        return self._shown(await self._nodes.command(node_id, command, metadata))

    def _known(self, node_id: str) -> Node:
        node = self._view.nodes.get(node_id)
        if node is None:
            raise NodeNotFoundError(f"there is no node {node_id}", node_id=node_id)
        return node

    def _shown(self, node: Node) -> pb.Node:
        return node_message(node, self._view, self._agents)

    def _begin(self, key: str) -> int:
        """Return where a page begins; nodes are only ever added, at the end."""
        if not key:
            return 0
        if not (key.isascii() and key.isdigit() and len(key) < 19):
            raise invalid_page_token()
        return int(key)
