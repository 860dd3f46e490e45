"""Who may call what. A method that is not here is open to nobody."""

from collections.abc import Iterator, Mapping
from typing import Final

from engineshed.rpc import Access

_API: Final = "engineshed.api.catalog.v1"
_EVENTS: Final = "/engineshed.api.events.v1.EventService/ReadEvents"


def _service(name: str, **methods: Access) -> Iterator[tuple[str, Access]]:
    for method, access in methods.items():
        yield f"/{_API}.{name}/{method}", access


def _only(*services: str) -> Access:
    return Access(None, frozenset(services))


def _scope(scope: str, *services: str) -> Access:
    return Access(scope, frozenset(services))


ACCESS: Final[Mapping[str, Access]] = dict(
    [
        *_service(
            "OrganizationService",
            CreateOrganization=_scope("operator"),
            GetOrganization=_scope("operator", "scheduler", "gateway", "ledger"),
            ListOrganizations=_scope("operator", "ledger"),
        ),
        *_service(
            "TokenService",
            CreateToken=_scope("admin"),
            ListTokens=_scope("admin"),
            RevokeToken=_scope("admin"),
            IntrospectToken=_only("scheduler", "gateway", "agent", "ledger"),
        ),
        *_service(
            "CheckpointService",
            CreateCheckpoint=_scope("artifacts:write"),
            GetCheckpoint=_scope("artifacts:read", "scheduler", "agent", "gateway", "ledger"),
            ListCheckpoints=_scope("artifacts:read"),
            DeleteCheckpoint=_scope("artifacts:write"),
        ),
        *_service(
            "HoldService",
            CreateHold=_only("scheduler"),
            DeleteHold=_only("scheduler"),
            ListHolds=_only("scheduler", "gateway"),
        ),
        *_service(
            "TemplateService",
            ListTemplates=_scope("endpoints:read", "scheduler", "gateway"),
            GetTemplate=_scope("endpoints:read", "scheduler", "gateway"),
        ),
        (_EVENTS, _scope("artifacts:read", "scheduler", "gateway", "ledger")),
    ]
)
