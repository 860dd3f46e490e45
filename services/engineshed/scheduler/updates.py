"""What an UpdateEndpointRequest asks for."""

from typing import Final

from engineshed.api.scheduler.v1.endpoint_service_pb2 import UpdateEndpointRequest
from engineshed.errors import FieldError, InvalidFieldError
from engineshed.scheduler.domain.commands import Update
from engineshed.scheduler.domain.errors import ImmutableFieldError

_MIN: Final = "scaling.min_replicas"
_MAX: Final = "scaling.max_replicas"
_CHANGEABLE: Final = ("name", "description", "enabled", "scaling", _MIN, _MAX)
_FIXED: Final = (
    "checkpoint_id",
    "flavor_name",
    "gpu_count",
    "gpu_type",
    "model_name",
    "region",
    "routing_key",
    "serving",
)


def read_update(request: UpdateEndpointRequest, most_replicas: int) -> Update:
    """Return the command; what the mask does not name stays as it is.

    Args:
        request: valid by its proto.
        most_replicas: how many replicas of the endpoint the fleet could ever hold.

    Raises:
        ImmutableFieldError: the mask names what cannot be changed.
        InvalidFieldError: the mask names what an endpoint does not have.

    """
    paths = frozenset(request.update_mask.paths)
    if unknown := sorted(paths.difference(_CHANGEABLE)):
        raise _refusal(unknown)
    if "scaling" in paths:
        paths |= {_MIN, _MAX}
    new = request.endpoint
    return Update(
        etag=request.etag,
        name=new.name if "name" in paths else None,
        description=new.description if "description" in paths else None,
        enabled=new.enabled if "enabled" in paths else None,
        min_replicas=new.scaling.min_replicas if _MIN in paths else None,
        max_replicas=new.scaling.max_replicas if _MAX in paths else None,
        most_replicas=most_replicas,
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
