"""NodeService over gRPC."""

from itertools import islice
from typing import Any

from grpc.aio import ServicerContext

from engineshed.api.scheduler.v1 import node_service_pb2 as pb
from engineshed.api.scheduler.v1.node_service_pb2_grpc import NodeServiceServicer
from engineshed.scheduler.agents import Agents
from engineshed.scheduler.calls import DEFAULT_PAGE_SIZE, invalid_page_token, key_of, page_token
from engineshed.scheduler.domain.errors import NodeNotFoundError
from engineshed.scheduler.domain.view import View
from engineshed.scheduler.rendering import node_message


class NodeServicer(NodeServiceServicer):
    """Interceptors validate the request and give errors their status before and after this."""

    def __init__(self, view: View, agents: Agents) -> None:
        self._view = view
        self._agents = agents

    async def GetNode(
        self, request: pb.GetNodeRequest, context: ServicerContext[Any, Any]
    ) -> pb.GetNodeResponse:
        """Return one node with who holds its GPUs."""
        node = self._view.nodes.get(request.node_id)
        if node is None:
            raise NodeNotFoundError(f"there is no node {request.node_id}", node_id=request.node_id)
        return pb.GetNodeResponse(node=node_message(node, self._view, self._agents))

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListNodesResponse:
        """Return a page of the nodes, in the order in which they first joined."""
        size = request.page_size or DEFAULT_PAGE_SIZE
        begin = self._begin(key_of(request.page_token))
        page = list(islice(self._view.nodes.values(), begin, begin + size))
        more = begin + size < len(self._view.nodes)
        return pb.ListNodesResponse(
            nodes=[node_message(node, self._view, self._agents) for node in page],
            next_page_token=page_token(str(begin + size)) if more else "",
        )

    def _begin(self, key: str) -> int:
        """Return where a page begins; nodes are only ever added, at the end."""
        if not key:
            return 0
        if not (key.isascii() and key.isdigit() and len(key) < 19):
            raise invalid_page_token()
        return int(key)
