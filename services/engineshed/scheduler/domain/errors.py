"""What the scheduler refuses."""

from engineshed.errors import DomainError, Kind


class EndpointNotFoundError(DomainError):
    """There is no such endpoint, or it is not the caller's."""

    kind = Kind.NOT_FOUND
    reason = "ENDPOINT_NOT_FOUND"

    @classmethod
    def of(cls, endpoint_id: str) -> "EndpointNotFoundError":
        """Return the error for one id."""
        return cls(f"there is no endpoint {endpoint_id}", endpoint_id=endpoint_id)


class NodeNotFoundError(DomainError):
    """There is no such node."""

    kind = Kind.NOT_FOUND
    reason = "NODE_NOT_FOUND"


class WrongNodeStateError(DomainError):
    """The node has left."""

    kind = Kind.REFUSED
    reason = "WRONG_NODE_STATE"


class NodeInUseError(DomainError):
    """Replicas are on the node."""

    kind = Kind.REFUSED
    reason = "NODE_IN_USE"


class WrongStateError(DomainError):
    """The endpoint's state does not allow it; the message says which states do."""

    kind = Kind.REFUSED
    reason = "WRONG_STATE"


class EtagMismatchError(DomainError):
    """The endpoint's specification has changed since the caller read it."""

    kind = Kind.STALE
    reason = "ETAG_MISMATCH"


class ImmutableFieldError(DomainError):
    """The field is fixed for the endpoint's life."""

    kind = Kind.INVALID
    reason = "IMMUTABLE_FIELD"


class UnknownRegionError(DomainError):
    """No known node stands in that region."""

    kind = Kind.INVALID
    reason = "UNKNOWN_REGION"


class UnknownGpuTypeError(DomainError):
    """No known node of that region has GPUs of that type."""

    kind = Kind.INVALID
    reason = "UNKNOWN_GPU_TYPE"


class NotInTemplateError(DomainError):
    """The template does not allow this combination."""

    kind = Kind.INVALID
    reason = "NOT_IN_TEMPLATE"


class ExceedsFleetError(DomainError):
    """More than all known nodes together could ever give."""

    kind = Kind.REFUSED
    reason = "EXCEEDS_FLEET"


class CheckpointNotFoundError(DomainError):
    """There is no such checkpoint, or it is not the caller's."""

    kind = Kind.NOT_FOUND
    reason = "CHECKPOINT_NOT_FOUND"


class DoesNotFitError(DomainError):
    """The GPUs have too little memory; the message says how much is needed and what would fit."""

    kind = Kind.INVALID
    reason = "DOES_NOT_FIT"


class ShapeUnknownError(DomainError):
    """Too little is known of the model, or of the GPUs, to estimate."""

    kind = Kind.REFUSED
    reason = "SHAPE_UNKNOWN"


class NoCapacityError(DomainError):
    """Not all replicas could be placed now, and the caller does not want to wait."""

    kind = Kind.REFUSED
    reason = "NO_CAPACITY"


class CapacityUnknownError(DomainError):
    """Nodes that could have room have not said yet what they run."""

    kind = Kind.UNAVAILABLE
    reason = "CAPACITY_UNKNOWN"


class CheckpointNotReadyError(DomainError):
    """The checkpoint is still being registered."""

    kind = Kind.REFUSED
    reason = "CHECKPOINT_NOT_READY"


class NothingToRollBackError(DomainError):
    """There is no rollout."""

    kind = Kind.REFUSED
    reason = "NOTHING_TO_ROLL_BACK"


class RoutingKeyTakenError(DomainError):
    """Another endpoint has this routing key; draw another one."""

    kind = Kind.CONFLICT
    reason = "ROUTING_KEY_TAKEN"


class GpuTakenError(DomainError):
    """The store knows another holder of the GPU; placing on it was a bug."""

    kind = Kind.CONFLICT
    reason = "GPU_TAKEN"
