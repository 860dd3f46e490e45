"""What requests carry in their path, query and headers."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Header, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime

from engineshed.errors import FieldError, InvalidFieldError


def _id_of(prefix: str) -> str:
    return f"^{prefix}_[0-9A-HJKMNP-TV-Z]{{26}}$"


EndpointId = Annotated[str, Path(pattern=_id_of("ep"), description="ep_…")]
CheckpointId = Annotated[str, Path(pattern=_id_of("ckpt"), description="ckpt_…")]
TokenId = Annotated[str, Path(pattern=_id_of("tok"), description="tok_…")]
OrganizationId = Annotated[str, Path(alias="org_id", pattern=_id_of("org"), description="org_…")]
NodeId = Annotated[str, Path(pattern=_id_of("node"), description="node_…")]

PageSize = Annotated[int, Query(ge=0, le=1000, description="How many at most; 0: 100.")]
PageToken = Annotated[str, Query(max_length=200, description="next_page_token of the last page.")]
ShowDeleted = Annotated[bool, Query(description="Deleted ones too.")]

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=128,
        description="A repeated request with the same key returns the first result.",
    ),
]
IfMatch = Annotated[
    str, Header(alias="If-Match", max_length=70, description="Only if the object's etag is this.")
]


def _within_the_calendar(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("in UTC it is outside of the years 1 to 9999") from error


Moment = Annotated[AwareDatetime, AfterValidator(_within_the_calendar)]
AsOf = Annotated[Moment | None, Query(description="As it was at this moment.")]

_ANY_ETAG: Final = "*"


def etag_of(if_match: str) -> str:
    """Return the etag in an If-Match header without its quotes; empty: any will do."""
    etag = if_match.strip().removeprefix("W/").strip('"')
    return "" if etag == _ANY_ETAG else etag


def only_known(request: Request) -> None:
    """Refuse a query parameter that means nothing: a misspelled filter must not match all.

    Raises:
        InvalidFieldError: there is one.
    """
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        message = "there is no such parameter; known here: " + (", ".join(sorted(known)) or "none")
        fields = [FieldError(name, message) for name in unknown]
        raise InvalidFieldError(f"{', '.join(unknown)}: {message}", fields=fields)
