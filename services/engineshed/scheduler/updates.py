"""What an UpdateEndpointRequest asks for, checked like a creation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from engineshed.api.scheduler.v1.endpoint_service_pb2 import (
    CreateEndpointRequest,
    Scaling,
    ServingParameters,
    UpdateEndpointRequest,
)
from engineshed.errors import FieldError, InvalidFieldError
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.checkpoints import served
from engineshed.scheduler.domain.admission import Admitted, admit, most_replicas_of
from engineshed.scheduler.domain.commands import Redeployment, Update
from engineshed.scheduler.domain.endpoint import Endpoint, Strategy
from engineshed.scheduler.domain.errors import CheckpointNotReadyError, ImmutableFieldError
from engineshed.scheduler.domain.replica import SERVING_FIELDS
from engineshed.scheduler.domain.scaling import scaling_of
from engineshed.scheduler.holds import Holds
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.servable import require_servable

_MIN: Final = "scaling.min_replicas"
_MAX: Final = "scaling.max_replicas"
_IDLE: Final = "scaling.idle_after"
_WAKE: Final = "scaling.wake_timeout"
_SERVING: Final = {f"serving.{name}": name for name in SERVING_FIELDS}
_DEPLOYMENT: Final = ("checkpoint_id", "gpu_count", "gpu_type", *_SERVING)
_CHANGEABLE: Final = (
    "name",
    "description",
    "enabled",
    "scaling",
    _MIN,
    _MAX,
    _IDLE,
    _WAKE,
    "serving",
    *_DEPLOYMENT,
)
_FIXED: Final = ("flavor_name", "model_name", "region", "routing_key")


class Updates:
    """Reads updates: what they name must exist, fit the template, and be held."""

    def __init__(self, journal: Journal, catalog: Catalog, holds: Holds, *, most_gpus: int) -> None:
        self._journal = journal
        self._catalog = catalog
        self._holds = holds
        self._most_gpus = most_gpus

    @asynccontextmanager
    async def reading(
        self, request: UpdateEndpointRequest, endpoint: Endpoint
    ) -> AsyncIterator[Update]:
        """Yield the command; a checkpoint that it names is held until it is recorded.

        Args:
            request: valid by its proto.
            endpoint: as it is now.

        Raises:
            ImmutableFieldError: the mask names what cannot be changed.
            DomainError: what is asked for can never be had, or the catalog cannot be reached.

        """
        paths = paths_of(request)
        update = read_update(request, paths)
        asked = paths.intersection(_DEPLOYMENT)
        if not asked:
            most = most_replicas_of(endpoint, self._journal.view.offers())
            yield replace(update, most_replicas=most)
            return
        admitted = await self._admitted(request, paths, endpoint)
        redeployment = _redeployment(request, paths, admitted)
        update = replace(update, redeployment=redeployment)
        checkpoint_id = request.endpoint.checkpoint_id
        if "checkpoint_id" not in asked or checkpoint_id == endpoint.checkpoint.checkpoint_id:
            known = await self._catalog.checkpoint(admitted.checkpoint_id)
            if known is not None:
                await require_servable(self._journal.store, endpoint.org_id, known, admitted)
            yield update
            return
        async with self._holds.taken(checkpoint_id, endpoint) as found:
            await require_servable(self._journal.store, endpoint.org_id, found, admitted)
            if not found.digest:
                raise CheckpointNotReadyError(
                    f"checkpoint {checkpoint_id} is still being registered; wait until it is, "
                    "then update the endpoint",
                    checkpoint_id=checkpoint_id,
                )
            yield replace(update, redeployment=replace(redeployment, checkpoint=served(found)))

    async def _admitted(
        self, request: UpdateEndpointRequest, paths: frozenset[str], endpoint: Endpoint
    ) -> Admitted:
        """Return the endpoint that the update makes, checked as if it were created so."""
        template = await self._catalog.template(endpoint.model_name)
        wanted = _as_creation(request, paths, endpoint)
        return admit(wanted, template, self._journal.view.offers(), self._most_gpus)


def paths_of(request: UpdateEndpointRequest) -> frozenset[str]:
    """Return the fields that the mask names, without those that stand for several.

    Raises:
        ImmutableFieldError: it names what cannot be changed.
        InvalidFieldError: it names what an endpoint does not have.

    """
    paths = frozenset(request.update_mask.paths)
    if unknown := sorted(paths.difference(_CHANGEABLE)):
        raise _refusal(unknown)
    if "scaling" in paths:
        paths |= {_MIN, _MAX, _IDLE, _WAKE}
    if "serving" in paths:
        paths |= set(_SERVING)
    for path in ("checkpoint_id", "gpu_type"):
        if path in paths and not getattr(request.endpoint, path):
            raise InvalidFieldError.of(path, "must not be empty; leave it out to keep it")
    return paths


def read_update(request: UpdateEndpointRequest, paths: frozenset[str]) -> Update:
    """Return the command, but for the deployment; what `paths` does not name stays as it is."""
    new, scaling = request.endpoint, scaling_of(request.endpoint.scaling)
    return Update(
        etag=request.etag,
        name=new.name if "name" in paths else None,
        description=new.description if "description" in paths else None,
        enabled=new.enabled if "enabled" in paths else None,
        min_replicas=scaling.min_replicas if _MIN in paths else None,
        max_replicas=scaling.max_replicas if _MAX in paths else None,
        idle_after=scaling.idle_after if _IDLE in paths else None,
        wake_timeout=scaling.wake_timeout if _WAKE in paths else None,
    )


def _redeployment(
    request: UpdateEndpointRequest, paths: frozenset[str], admitted: Admitted
) -> Redeployment:
    """Return what is to change of the deployment, but for the checkpoint."""
    serving = {
        name: getattr(admitted.serving, name) for path, name in _SERVING.items() if path in paths
    }
    return Redeployment(
        gpu_type=admitted.gpu_type if "gpu_type" in paths else None,
        gpu_count=admitted.gpu_count if "gpu_count" in paths else None,
        strategy=Strategy(request.update_strategy or Strategy.SURGE),
        **serving,
    )


def _as_creation(
    request: UpdateEndpointRequest, paths: frozenset[str], endpoint: Endpoint
) -> CreateEndpointRequest:
    """Return the creation of the endpoint that the update makes."""
    new, scaling = request.endpoint, endpoint.scaling
    serving = {
        name: getattr(new.serving if path in paths else endpoint.serving, name)
        for path, name in _SERVING.items()
    }
    return CreateEndpointRequest(
        name=endpoint.name,
        model_name=endpoint.model_name,
        flavor_name=endpoint.flavor_name,
        checkpoint_id=(
            new.checkpoint_id if "checkpoint_id" in paths else endpoint.checkpoint.checkpoint_id
        ),
        gpu_type=new.gpu_type if "gpu_type" in paths else endpoint.gpu_type,
        gpu_count=new.gpu_count if "gpu_count" in paths else endpoint.gpu_count,
        region=endpoint.region,
        scaling=Scaling(
            min_replicas=new.scaling.min_replicas if _MIN in paths else scaling.min_replicas,
            max_replicas=new.scaling.max_replicas if _MAX in paths else scaling.max_replicas,
        ),
        serving=ServingParameters(**serving),
    )


def _refusal(paths: list[str]) -> ImmutableFieldError | InvalidFieldError:
    changeable = f"changeable are: {', '.join(_CHANGEABLE)}"
    fixed = [path for path in paths if path.partition(".")[0] in _FIXED]
    if fixed:
        message = f"cannot be changed; {changeable}"
        return ImmutableFieldError(
            f"{', '.join(fixed)}: {message}", fields=[FieldError(path, message) for path in fixed]
        )
    message = f"names {', '.join(paths)}, which an endpoint does not have; {changeable}"
    return InvalidFieldError.of("update_mask", message)
