"""How an endpoint comes to be: template, admission, hold, record.

The hold on the checkpoint is taken before the endpoint is recorded, so that no endpoint ever
serves bytes that may vanish. If the scheduler dies in between, the catalog finds the orphan.
"""

import secrets
from typing import Final

import structlog

from engineshed import ids
from engineshed.api.scheduler.v1.endpoint_service_pb2 import CreateEndpointRequest
from engineshed.errors import DomainError
from engineshed.eventstore import Idempotency
from engineshed.rpc import Call
from engineshed.scheduler.calls import by_caller
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.checkpoints import served
from engineshed.scheduler.domain import naming
from engineshed.scheduler.domain.admission import Admitted, admit, template_name
from engineshed.scheduler.domain.commands import Create
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.errors import RoutingKeyTakenError
from engineshed.scheduler.domain.replica import Checkpoint
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal

# There are two billion suffixes for each name.
_DRAWS: Final = 10

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Creation:
    """Creates endpoints."""

    def __init__(
        self, journal: Journal, endpoints: Endpoints, catalog: Catalog, *, most_gpus: int
    ) -> None:
        self._journal = journal
        self._endpoints = endpoints
        self._catalog = catalog
        self._most_gpus = most_gpus

    async def create(
        self, request: CreateEndpointRequest, call: Call, once: Idempotency | None
    ) -> Endpoint:
        """Return the new endpoint, recorded.

        Raises:
            DomainError: it is refused, or the catalog or the database cannot be reached.

        """
        template = await self._catalog.template(template_name(request))
        admitted = admit(request, template, self._journal.view.offers(), self._most_gpus)
        endpoint_id, org_id = ids.new(ids.ENDPOINT), call.principal.org_id
        found = await self._catalog.hold(admitted.checkpoint_id, endpoint_id, org_id)
        try:
            return await self._record(endpoint_id, request, admitted, served(found), call, once)
        except DomainError:
            await self._give_back(admitted.checkpoint_id, endpoint_id)
            raise

    async def _record(
        self,
        endpoint_id: str,
        request: CreateEndpointRequest,
        admitted: Admitted,
        checkpoint: Checkpoint,
        call: Call,
        once: Idempotency | None,
    ) -> Endpoint:
        org_id = call.principal.org_id
        for _ in range(_DRAWS):
            suffix = "".join(
                secrets.choice(naming.SUFFIX_ALPHABET) for _ in range(naming.SUFFIX_LENGTH)
            )
            command = Create(
                endpoint_id=endpoint_id,
                org_id=org_id,
                name=request.name,
                description=request.description,
                model_name=admitted.model_name,
                flavor_name=admitted.flavor_name,
                checkpoint=checkpoint,
                gpu_type=admitted.gpu_type,
                gpu_count=admitted.gpu_count,
                region=admitted.region,
                scaling=admitted.scaling,
                serving=admitted.serving,
                routing_key=naming.routing_key(request.name, suffix),
            )
            try:
                return await self._endpoints.command(
                    endpoint_id, command, by_caller(call, org_id), once
                )
            except RoutingKeyTakenError:
                continue
        raise RoutingKeyTakenError(f"no routing key was free for {request.name!r}; try again")

    async def _give_back(self, checkpoint_id: str, endpoint_id: str) -> None:
        try:
            await self._catalog.release(checkpoint_id, endpoint_id)
        except DomainError as error:  # the catalog will find it
            log.warning("hold not given back", endpoint_id=endpoint_id, error=error.message)
