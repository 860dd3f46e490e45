"""/v0/dedicated_endpoints:estimate: whether a model would fit, without creating anything."""

from fastapi import APIRouter
from pydantic import Field

from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.gateway.controlplane.clients import CallerDep
from engineshed.gateway.controlplane.endpoints import serving_message
from engineshed.gateway.controlplane.models import Body, Serving, Several, Text
from engineshed.gateway.controlplane.schemas import EndpointServing, Shape
from engineshed.gateway.controlplane.views import Json, serving

router = APIRouter(tags=["endpoints"])


class EstimateEndpoint(Body):
    """What would be served, and on what; the fields are those of a new endpoint."""

    model_name: Text | None = Field(None, description="A template's model; see …/templates.")
    flavor_name: Text | None = Field(None, description="The template's variant.")
    checkpoint_id: Text | None = Field(None, description="What to serve: ckpt_….")
    gpu_type: Text | None = Field(None, description="For example h100-sxm.")
    gpu_count: Several | None = Field(None, description="GPUs of each replica.")
    region: Text | None = Field(None, description="Where to run.")
    serving: Serving | None = Field(None, description="Default: the flavor's.")


class MemoryEstimate(Shape):
    """What each GPU of a replica would hold, in bytes."""

    gpu_type: str
    gpu_count: int
    parallel: int = Field(description="How many of the GPUs share the model.")
    serving: EndpointServing
    fits: bool = Field(description="Whether one request of the longest context has room.")
    measured: bool = Field(
        description="Whether such an engine of yours was measured: then weight_bytes and "
        "activation_bytes together are what it took, CUDA's part included. Else all is estimated."
    )
    gpu_memory_bytes: int
    needed_bytes: int = Field(description="What it takes at least.")
    weight_bytes: int
    activation_bytes: int = Field(description="The work space of the engine.")
    reserved_bytes: int = Field(description="What CUDA takes for itself.")
    token_bytes: int = Field(description="Keys and values of one token.")
    needed_context: int = Field(description="Tokens of one request that there must be room for.")
    max_tokens: int = Field(description="Tokens of all requests together that there is room for.")


class EndpointEstimate(MemoryEstimate):
    """Whether it fits, and what does where it does not."""

    alternatives: list[MemoryEstimate] = Field(
        description="What fits, where that does not: the least change first."
    )


@router.post("/v0/dedicated_endpoints:estimate", response_model=EndpointEstimate)
async def estimate_endpoint(body: EstimateEndpoint, caller: CallerDep) -> Json:
    """Say whether a model would fit on its GPUs; nothing is created."""
    message = pb.EstimateEndpointRequest(
        model_name=body.model_name or "",
        flavor_name=body.flavor_name or "",
        checkpoint_id=body.checkpoint_id or "",
        gpu_type=body.gpu_type or "",
        gpu_count=body.gpu_count or 0,
        region=body.region or "",
        serving=serving_message(body.serving) if body.serving else None,
    )
    reply = await caller.services.endpoints.EstimateEndpoint(message, metadata=caller.metadata)
    return {
        **_view(reply.estimate),
        "alternatives": [_view(one) for one in reply.alternatives],
    }


def _view(estimate: pb.MemoryEstimate) -> Json:
    return {
        "gpu_type": estimate.gpu_type,
        "gpu_count": estimate.gpu_count,
        "parallel": estimate.parallel,
        "serving": serving(estimate.serving),
        "fits": estimate.fits,
        "measured": estimate.measured,
        "gpu_memory_bytes": estimate.gpu_memory_bytes,
        "needed_bytes": estimate.needed_bytes,
        "weight_bytes": estimate.weight_bytes,
        "activation_bytes": estimate.activation_bytes,
        "reserved_bytes": estimate.reserved_bytes,
        "token_bytes": estimate.token_bytes,
        "needed_context": estimate.needed_context,
        "max_tokens": estimate.max_tokens,
    }
