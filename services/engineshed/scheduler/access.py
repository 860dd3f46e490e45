"""Who may call what. A method that is not here is open to nobody."""

from collections.abc import Iterator, Mapping
from typing import Final

from engineshed.rpc import Access

_READ: Final = "endpoints:read"
_WRITE: Final = "endpoints:write"
_INFER: Final = "inference"
_OPERATOR: Final = "operator"


def _service(name: str, **methods: Access) -> Iterator[tuple[str, Access]]:
    for method, access in methods.items():
        yield f"/engineshed.api.{name}/{method}", access


def _scope(scope: str, *services: str) -> Access:
    return Access(scope, frozenset(services))


ACCESS: Final[Mapping[str, Access]] = dict(
    [
        *_service(
            "scheduler.v1.EndpointService",
            CreateEndpoint=_scope(_WRITE),
            # The catalog asks whether the holder of a hold exists.
            GetEndpoint=_scope(_READ, "catalog", "gateway", "ledger"),
            ListEndpoints=_scope(_READ),
            UpdateEndpoint=_scope(_WRITE),
            RollbackEndpoint=_scope(_WRITE),
            StopEndpoint=_scope(_WRITE),
            RestartEndpoint=_scope(_WRITE),
            DeleteEndpoint=_scope(_WRITE),
            EstimateEndpoint=_scope(_READ),
            # Whoever may ask the model may wake it.
            WakeEndpoint=_scope(_INFER),
        ),
        *_service(
            "scheduler.v1.NodeService",
            GetNode=_scope(_OPERATOR, "gateway"),
            ListNodes=_scope(_OPERATOR, "gateway"),
            CordonNode=_scope(_OPERATOR),
            UncordonNode=_scope(_OPERATOR),
            DrainNode=_scope(_OPERATOR),
            RemoveNode=_scope(_OPERATOR),
        ),
        *_service(
            "scheduler.v1.SchedulingService",
            ExplainEndpoint=_scope(_READ),
            SimulateChanges=_scope(_OPERATOR),
            ReplayDecisions=_scope(_OPERATOR),
        ),
        *_service("agent.v1.AgentService", Connect=Access(None, frozenset({"agent"}))),
        *_service(
            "events.v1.EventService", ReadEvents=_scope(_READ, "catalog", "gateway", "ledger")
        ),
    ]
)
