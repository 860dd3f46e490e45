"""How an endpoint comes to be: template, admission, hold, record.

The hold on the checkpoint is taken before the endpoint is recorded, so that no endpoint ever
serves bytes that may vanish. If the scheduler dies in between, the catalog finds the orphan.

An endpoint that must not wait is recorded together with its placement, in one append, while the
reconciler places nothing. So of two that want the last GPU one gets it, and the other is refused:
neither is promised what somebody else is given before it is recorded.
"""

import secrets
from typing import Final

import structlog

from engineshed import ids
from engineshed.api.scheduler.v1.endpoint_service_pb2 import CreateEndpointRequest, OnNoCapacity
from engineshed.api.scheduler.v1.events_pb2 import EndpointCreated
from engineshed.errors import DomainError
from engineshed.eventstore import Idempotency, Metadata, RequestRepeatedError
from engineshed.rpc import Call
from engineshed.runtime import utc_now
from engineshed.scheduler.calls import by_caller
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.checkpoints import served
from engineshed.scheduler.domain import naming
from engineshed.scheduler.domain.admission import Admitted, admit, template_name
from engineshed.scheduler.domain.capacity import require_capacity
from engineshed.scheduler.domain.commands import Create
from engineshed.scheduler.domain.decide import decide, fold
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.errors import RoutingKeyTakenError
from engineshed.scheduler.domain.plan import Assign, plan_newcomer
from engineshed.scheduler.domain.replica import Checkpoint
from engineshed.scheduler.domain.score import Policy
from engineshed.scheduler.domain.upkeep import carried_out
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.plan_log import PlanLog
from engineshed.scheduler.servable import require_servable

# There are two billion suffixes for each name.
_DRAWS: Final = 10

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Creation:
    """Creates endpoints."""

    def __init__(
        self,
        journal: Journal,
        endpoints: Endpoints,
        catalog: Catalog,
        plans: PlanLog,
        *,
        most_gpus: int,
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._endpoints = endpoints
        self._catalog = catalog
        self._plans = plans
        self._most_gpus = most_gpus
        self._policy = policy

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
            await require_servable(self._journal.store, org_id, found, admitted)
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
        metadata = by_caller(call, org_id)
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
                if request.on_no_capacity == OnNoCapacity.ON_NO_CAPACITY_FAIL:
                    placing = self._record_placed(command, metadata, once)
                    return await self._journal.finish(placing)
                return await self._endpoints.command(endpoint_id, command, metadata, once)
            except RoutingKeyTakenError:
                continue
        raise RoutingKeyTakenError(f"no routing key was free for {request.name!r}; try again")

    async def _record_placed(
        self, command: Create, metadata: Metadata, once: Idempotency | None
    ) -> Endpoint:
        """Record an endpoint and where its replicas are, or nothing; below `finish` only.

        Raises:
            NoCapacityError: it would have to wait.
            DomainError: what is free is not known yet, or nothing can be recorded now.

        """
        async with self._journal.placing:
            await self._require_new(once)
            now = utc_now()
            events = decide(None, command, now)
            created = events[0]
            assert isinstance(created, EndpointCreated), "so every endpoint begins"
            newcomer = fold(None, events, now)
            spots = plan_newcomer(self._journal.view, newcomer, self._policy, now)
            require_capacity(self._journal.view, newcomer, len(spots))
            assign = Assign(newcomer.endpoint_id, spots, newcomer.placing.number)
            self._plans.note([assign] if spots else [], now, newcomer=created)
            place = carried_out(assign, lambda: ids.new(ids.REPLICA)).command
            return await self._endpoints.command(
                command.endpoint_id, command, metadata, once, then=place
            )

    async def _require_new(self, once: Idempotency | None) -> None:
        """Let a request that was sent twice have its first answer; it has the GPUs that it misses.

        Raises:
            RequestRepeatedError: it was carried out already.

        """
        answer = await self._journal.store.recall(once) if once else None
        if once is not None and answer is not None:
            raise RequestRepeatedError(
                f"request {once.request_id!r} has been carried out already",
                request_id=once.request_id,
                response=answer,
            )

    async def _give_back(self, checkpoint_id: str, endpoint_id: str) -> None:
        try:
            await self._catalog.release(checkpoint_id, endpoint_id)
        except DomainError as error:  # the catalog will find it
            log.warning("hold not given back", endpoint_id=endpoint_id, error=error.message)
