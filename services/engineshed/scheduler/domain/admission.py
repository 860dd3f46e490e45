"""Whether an endpoint that is asked for can be had at all: against its template and the fleet.

What is merely taken now is no reason to refuse: it waits in the queue.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from engineshed.api.catalog.v1.template_service_pb2 import Flavor, Template
from engineshed.api.scheduler.v1 import endpoint_service_pb2 as api
from engineshed.errors import FieldError, InvalidFieldError
from engineshed.scheduler.domain.backends import can_serve, fitting, needs_building
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.errors import (
    ExceedsFleetError,
    NotInTemplateError,
    UnknownGpuTypeError,
    UnknownRegionError,
)
from engineshed.scheduler.domain.memory import Hardware
from engineshed.scheduler.domain.replica import Serving
from engineshed.scheduler.domain.scaling import Scaling, scaling_of

# The template of whatever checkpoint a request names.
CUSTOM: Final = "custom"


@dataclass(frozen=True, slots=True)
class Offer:
    """How many known nodes of a kind there are, heard or not."""

    region: str
    gpu_type: str
    backends: frozenset[str]
    gpu_count: int  # of each node
    nodes: int
    gpu_memory_bytes: int = 0  # of each GPU; 0: it is not known, or no GPU


@dataclass(frozen=True, slots=True)
class Admitted:
    """What an endpoint will be, defaults filled in."""

    model_name: str
    flavor_name: str
    checkpoint_id: str
    gpu_type: str
    gpu_count: int
    region: str
    scaling: Scaling
    serving: Serving
    hardware: Hardware


def template_name(request: api.CreateEndpointRequest) -> str:
    """Return the name of the template that `request` means.

    Raises:
        InvalidFieldError: it names neither a template nor a checkpoint.

    """
    if not request.model_name and not request.checkpoint_id:
        raise InvalidFieldError.of(
            "model_name", "name a template's model, or a checkpoint by checkpoint_id"
        )
    return request.model_name or CUSTOM


def admit(
    request: api.CreateEndpointRequest,
    template: Template,
    offers: Sequence[Offer],
    most_gpus: int,
) -> Admitted:
    """Return what `request` asks for, with its defaults.

    Args:
        request: what is asked for, valid by its proto.
        template: the template that it names.
        offers: the fleet.
        most_gpus: how many GPUs a replica may have at most.

    Raises:
        DomainError: it can never be had; it says what could.

    """
    checkpoint_id = request.checkpoint_id or template.checkpoint_id
    if not checkpoint_id:
        raise InvalidFieldError.of(
            "checkpoint_id", f"the template {template.model_name} needs the checkpoint to serve"
        )
    flavor = _flavor(request, template)
    scaling = scaling_of(request.scaling) if request.HasField("scaling") else Scaling(1, 1)
    require_scaling(scaling, "scaling")
    region = _region(request, template, flavor, offers)
    offers = [offer for offer in offers if offer.region == region]
    gpu_type = _gpu_type(request, template, flavor, region, offers)
    offers = [offer for offer in offers if offer.gpu_type == gpu_type]
    gpu_count = _gpu_count(request, template, flavor, most_gpus)
    serving = _serving(request.serving, flavor)
    offers = _able(serving, gpu_type, region, offers)
    require_room(gpu_type, gpu_count, scaling, most_replicas(offers, gpu_count))
    return Admitted(
        template.model_name,
        flavor.flavor_name,
        checkpoint_id,
        gpu_type,
        gpu_count,
        region,
        scaling,
        serving,
        _hardware(gpu_type, gpu_count, flavor, offers, most_gpus),
    )


def require_scaling(scaling: Scaling, field: str) -> None:
    """Refuse bounds that make no sense.

    Raises:
        InvalidFieldError: it names the bound and what it may be.

    """
    if scaling.max_replicas < 1:
        raise InvalidFieldError.of(
            f"{field}.max_replicas", "must be at least 1; to have none at all, stop the endpoint"
        )
    if scaling.max_replicas < scaling.min_replicas:
        raise InvalidFieldError.of(
            f"{field}.max_replicas",
            f"must be at least min_replicas, {scaling.min_replicas}; it is {scaling.max_replicas}",
        )


def require_room(gpu_type: str, gpu_count: int, scaling: Scaling, most: int) -> None:
    """Refuse what the fleet could never hold, were it empty.

    Raises:
        ExceedsFleetError: it says how much could be had.

    """
    least = max(1, scaling.min_replicas)
    if least <= most:
        return
    message = (
        f"the nodes could never hold more than {most} replicas of {gpu_count} {gpu_type} GPUs "
        f"each; {least} are asked for"
        if most
        else f"no known node has {gpu_count} {gpu_type} GPUs, which one replica needs"
    )
    raise ExceedsFleetError(
        message,
        gpu_type=gpu_type,
        gpu_count=gpu_count,
        min_replicas=scaling.min_replicas,
        most_replicas=most,
    )


def most_replicas(offers: Sequence[Offer], gpu_count: int) -> int:
    """Return how many replicas of so many GPUs these nodes could hold, were they empty."""
    return sum(offer.nodes * (offer.gpu_count // gpu_count) for offer in offers)


def most_replicas_of(endpoint: Endpoint, offers: Sequence[Offer]) -> int:
    """Return how many replicas of an endpoint the fleet could hold, were it empty."""
    fitting = [
        offer
        for offer in offers
        if (offer.region, offer.gpu_type) == (endpoint.region, endpoint.gpu_type)
        and can_serve(offer.backends, endpoint.serving)
    ]
    return most_replicas(fitting, endpoint.gpu_count)


def _flavor(request: api.CreateEndpointRequest, template: Template) -> Flavor:
    names = [flavor.flavor_name for flavor in template.flavors]
    if not request.flavor_name:
        return template.flavors[0]
    if request.flavor_name not in names:
        raise _not_in_template(template, "flavor_name", request.flavor_name, names)
    return template.flavors[names.index(request.flavor_name)]


def _region(
    request: api.CreateEndpointRequest,
    template: Template,
    flavor: Flavor,
    offers: Sequence[Offer],
) -> str:
    known = sorted({offer.region for offer in offers})
    allowed = [region for region in known if not flavor.regions or region in flavor.regions]
    if not request.region:
        return _only("region", allowed)
    if flavor.regions and request.region not in flavor.regions:
        raise _not_in_template(template, "region", request.region, flavor.regions)
    if request.region not in known:
        message = f"no node is known in {request.region}; {_choices(allowed)}"
        raise UnknownRegionError(
            f"region: {message}",
            fields=[FieldError("region", message)],
            region=request.region,
            regions=",".join(allowed),
        )
    return request.region


def _gpu_type(
    request: api.CreateEndpointRequest,
    template: Template,
    flavor: Flavor,
    region: str,
    offers: Sequence[Offer],
) -> str:
    known = sorted({offer.gpu_type for offer in offers})
    allowed = [kind for kind in known if not flavor.gpu_types or kind in flavor.gpu_types]
    if not request.gpu_type:
        return _only("gpu_type", allowed)
    if flavor.gpu_types and request.gpu_type not in flavor.gpu_types:
        raise _not_in_template(template, "gpu_type", request.gpu_type, flavor.gpu_types)
    if request.gpu_type not in known:
        message = f"no node in {region} has {request.gpu_type}; {_choices(allowed)}"
        raise UnknownGpuTypeError(
            f"gpu_type: {message}",
            fields=[FieldError("gpu_type", message)],
            gpu_type=request.gpu_type,
            gpu_types=",".join(allowed),
        )
    return request.gpu_type


def _gpu_count(
    request: api.CreateEndpointRequest, template: Template, flavor: Flavor, most_gpus: int
) -> int:
    gpu_count = request.gpu_count or min(flavor.gpu_counts, default=1)
    if gpu_count > most_gpus:
        raise InvalidFieldError.of("gpu_count", f"must be at most {most_gpus}; it is {gpu_count}")
    if flavor.gpu_counts and gpu_count not in flavor.gpu_counts:
        counts = [str(count) for count in flavor.gpu_counts]
        raise _not_in_template(template, "gpu_count", str(gpu_count), counts)
    return gpu_count


def _hardware(
    gpu_type: str, gpu_count: int, flavor: Flavor, offers: Sequence[Offer], most_gpus: int
) -> Hardware:
    """Return the GPUs of a replica, and how many it could have instead."""
    most = min(most_gpus, max(offer.gpu_count for offer in offers))
    counts = flavor.gpu_counts or (1 << power for power in range(most.bit_length()))
    return Hardware(
        gpu_type,
        gpu_count,
        min(offer.gpu_memory_bytes for offer in offers),
        tuple(sorted(count for count in counts if count <= most)),
        frozenset().union(*(offer.backends for offer in offers)),
    )


def _serving(asked: api.ServingParameters, flavor: Flavor) -> Serving:
    return Serving(
        asked.max_context or flavor.max_context,
        asked.precision or flavor.precision,
        asked.quantization or flavor.quantization,
        asked.max_batch_size or flavor.max_batch_size,
        asked.max_batch_tokens or flavor.max_batch_tokens,
        asked.kv_cache_fraction or flavor.kv_cache_fraction,
    )


def _able(serving: Serving, gpu_type: str, region: str, offers: Sequence[Offer]) -> Sequence[Offer]:
    able = [offer for offer in offers if can_serve(offer.backends, serving)]
    if able:
        return able
    needed = " or ".join(sorted(fitting(serving)))
    without = f"the back end {needed}, which no {gpu_type} node in {region} offers"
    if name := needs_building(serving):
        raise InvalidFieldError.of(
            f"serving.{name}",
            f"{getattr(serving, name)} needs {without}; leave it out, or choose other GPUs",
        )
    raise InvalidFieldError.of("gpu_type", f"serving a model needs {without}")


def _only(field: str, choices: Sequence[str]) -> str:
    if len(choices) == 1:
        return choices[0]
    raise InvalidFieldError.of(field, f"must be given; {_choices(choices)}")


def _choices(names: Collection[str]) -> str:
    if not names:
        return "no node that offers one has joined yet"
    return f"valid: {', '.join(names)}"


def _not_in_template(
    template: Template, field: str, value: str, allowed: Collection[str]
) -> NotInTemplateError:
    message = f"{value} is not in the template {template.model_name}; {_choices(allowed)}"
    return NotInTemplateError(
        f"{field}: {message}",
        fields=[FieldError(field, message)],
        model_name=template.model_name,
        allowed=",".join(allowed),
    )
