"""Answering whether an endpoint's model would fit, without creating it."""

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as pb
from engineshed.auth import Principal
from engineshed.fit import Estimate
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.domain.admission import Admitted, admit, template_name
from engineshed.scheduler.domain.errors import CheckpointNotFoundError
from engineshed.scheduler.domain.memory import estimated
from engineshed.scheduler.domain.support import require_supported
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.servable import measured_bytes

_PLATFORM = "_platform"


class Estimates:
    """Checks what is asked for as a creation is checked, and estimates its memory."""

    def __init__(self, journal: Journal, catalog: Catalog, *, most_gpus: int) -> None:
        self._journal = journal
        self._catalog = catalog
        self._most_gpus = most_gpus

    async def estimate(
        self, request: pb.EstimateEndpointRequest, principal: Principal
    ) -> pb.EstimateEndpointResponse:
        """Return the estimate.

        Raises:
            DomainError: what is asked for can never be had, too little is known of it, or the
                catalog cannot be reached.

        """
        asked = pb.CreateEndpointRequest(
            name="estimate",
            model_name=request.model_name,
            flavor_name=request.flavor_name,
            checkpoint_id=request.checkpoint_id,
            gpu_type=request.gpu_type,
            gpu_count=request.gpu_count,
            region=request.region,
            serving=request.serving,
        )
        template = await self._catalog.template(template_name(asked))
        admitted = admit(asked, template, self._journal.view.offers(), self._most_gpus)
        checkpoint = await self._checkpoint(admitted.checkpoint_id, principal)
        require_supported(checkpoint, admitted.serving, admitted.hardware)
        measured = await measured_bytes(self._journal.store, principal.org_id, checkpoint, admitted)
        answer = estimated(checkpoint, admitted.serving, admitted.hardware, measured)
        return pb.EstimateEndpointResponse(
            estimate=_message(answer.asked, admitted),
            alternatives=[_message(one, admitted) for one in answer.alternatives],
        )

    async def _checkpoint(self, checkpoint_id: str, principal: Principal) -> Checkpoint:
        found = await self._catalog.checkpoint(checkpoint_id)
        visible = (principal.org_id, _PLATFORM)
        if found is None or found.org_id not in visible:
            raise CheckpointNotFoundError(
                f"there is no checkpoint {checkpoint_id}", checkpoint_id=checkpoint_id
            )
        return found


def _message(estimate: Estimate, admitted: Admitted) -> pb.MemoryEstimate:
    plan = estimate.plan
    parallel = admitted.hardware.parallel
    return pb.MemoryEstimate(
        gpu_type=admitted.gpu_type,
        gpu_count=plan.gpu_count if parallel else admitted.gpu_count,
        parallel=plan.gpu_count,
        serving=pb.ServingParameters(
            max_context=plan.max_context,
            precision=plan.precision,
            quantization=plan.quantization,
            max_batch_size=admitted.serving.max_batch_size,
            max_batch_tokens=plan.max_batch_tokens,
            kv_cache_fraction=plan.kv_cache_fraction,
        ),
        fits=estimate.fits,
        gpu_memory_bytes=plan.gpu_memory_bytes,
        needed_bytes=estimate.needed_bytes,
        weight_bytes=estimate.weight_bytes,
        activation_bytes=estimate.activation_bytes,
        reserved_bytes=estimate.reserved_bytes,
        token_bytes=estimate.token_bytes,
        needed_context=estimate.needed_context,
        max_tokens=estimate.max_tokens,
        measured=bool(plan.measured_bytes),
    )
