"""/v0/nodes: the GPU hosts, and taking them out of use."""

from typing import Annotated

from fastapi import APIRouter, Query

from engineshed.api.scheduler.v1 import node_service_pb2 as pb
from engineshed.gateway.controlplane import schemas, views
from engineshed.gateway.controlplane.clients import CallerDep
from engineshed.gateway.controlplane.models import Because
from engineshed.gateway.controlplane.parameters import NodeId, PageSize, PageToken
from engineshed.gateway.controlplane.views import Json

router = APIRouter(prefix="/v0/nodes", tags=["nodes"])


@router.get("", response_model=schemas.Page[schemas.Node])
async def list_nodes(
    caller: CallerDep, page_size: PageSize = 0, page_token: PageToken = ""
) -> Json:
    """List the GPU hosts and who holds their GPUs, without those that have left (operators)."""
    reply = await caller.services.nodes.ListNodes(
        pb.ListNodesRequest(page_size=page_size, page_token=page_token),
        metadata=caller.metadata,
    )
    return views.page([views.node(item) for item in reply.nodes], reply.next_page_token)


@router.get("/{node_id}", response_model=schemas.Node)
async def get_node(node_id: NodeId, caller: CallerDep) -> Json:
    """Return one GPU host, also one that has left (operators)."""
    reply = await caller.services.nodes.GetNode(
        pb.GetNodeRequest(node_id=node_id), metadata=caller.metadata
    )
    return views.node(reply.node)


@router.post("/{node_id}/cordon", response_model=schemas.Node)
async def cordon_node(node_id: NodeId, caller: CallerDep, body: Because | None = None) -> Json:
    """Give a host no new replicas; those it has stay (operators)."""
    message = pb.CordonNodeRequest(node_id=node_id, reason=body.reason if body else "")
    reply = await caller.services.nodes.CordonNode(message, metadata=caller.metadata)
    return views.node(reply.node)


@router.post("/{node_id}/uncordon", response_model=schemas.Node)
async def uncordon_node(node_id: NodeId, caller: CallerDep) -> Json:
    """End a cordon or a drain: the host takes replicas again (operators)."""
    message = pb.UncordonNodeRequest(node_id=node_id)
    reply = await caller.services.nodes.UncordonNode(message, metadata=caller.metadata)
    return views.node(reply.node)


@router.post("/{node_id}/drain", response_model=schemas.Node)
async def drain_node(node_id: NodeId, caller: CallerDep, body: Because | None = None) -> Json:
    """Cordon a host and replace its replicas elsewhere, make-before-break (operators)."""
    message = pb.DrainNodeRequest(node_id=node_id, reason=body.reason if body else "")
    reply = await caller.services.nodes.DrainNode(message, metadata=caller.metadata)
    return views.node(reply.node)


@router.delete("/{node_id}", response_model=schemas.Node)
async def remove_node(
    node_id: NodeId,
    caller: CallerDep,
    force: Annotated[
        bool,
        Query(description="Though replicas are on it: they count as gone. For a host that is off."),
    ] = False,
    reason: Annotated[str, Query(description="Why, for people.")] = "",
) -> Json:
    """Take a host out; it joins again when its agent connects (operators)."""
    message = pb.RemoveNodeRequest(node_id=node_id, force=force, reason=reason)
    reply = await caller.services.nodes.RemoveNode(message, metadata=caller.metadata)
    return views.node(reply.node)
