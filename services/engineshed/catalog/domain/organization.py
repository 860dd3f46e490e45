"""Organization: a tenant. It is created and stays."""

from dataclasses import dataclass

from engineshed.api.catalog.v1.events_pb2 import OrganizationCreated
from engineshed.errors import DomainError, Kind


class OrganizationExistsError(DomainError):
    """Another organization has this slug."""

    kind = Kind.EXISTS
    reason = "ORGANIZATION_EXISTS"


class OrganizationNotFoundError(DomainError):
    """There is no such organization."""

    kind = Kind.NOT_FOUND
    reason = "ORGANIZATION_NOT_FOUND"

    @classmethod
    def of(cls, org_id: str) -> "OrganizationNotFoundError":
        """Return the error for one id."""
        return cls(f"there is no organization {org_id}", org_id=org_id)


@dataclass(frozen=True, slots=True)
class Create:
    """Add a tenant. That its slug is free is seen to by the store's unique key."""

    org_id: str
    slug: str


def stream_of(org_id: str) -> str:
    """Return the name of an organization's stream."""
    return f"organization/{org_id}"


def decide(command: Create) -> list[OrganizationCreated]:
    """Return what `command` makes true."""
    return [OrganizationCreated(org_id=command.org_id, slug=command.slug)]
