"""Bringing the read models up to date with events, in the transaction that records them."""

from collections.abc import Sequence
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Connection, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from engineshed.api.catalog.v1 import events_pb2 as events
from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.catalog.v1.organization_service_pb2 import Organization
from engineshed.api.catalog.v1.token_service_pb2 import Token
from engineshed.catalog import tables
from engineshed.catalog.domain import record
from engineshed.catalog.domain.checkpoint import Event as CheckpointEvent
from engineshed.catalog.domain.organization import OrganizationExistsError
from engineshed.eventstore import RecordedEvent
from engineshed.runtime import to_timestamp


def project(connection: Connection, batch: Sequence[RecordedEvent]) -> None:
    """Write what events change in the read models, one after the other."""
    for recorded in batch:
        _project_one(connection, recorded)


def _project_one(connection: Connection, recorded: RecordedEvent) -> None:
    event = recorded.event
    at = to_timestamp(recorded.recorded_at)
    match event:
        case events.OrganizationCreated():
            _organization_created(connection, recorded.position, event, at)
        case events.TokenCreated():
            _token_created(connection, recorded.position, event, at)
        case events.TokenRevoked():
            _token_revoked(connection, recorded.position, event, at)
        case _:
            _checkpoint(connection, recorded, cast(CheckpointEvent, event), at)


def _organization_created(
    connection: Connection, position: int, event: events.OrganizationCreated, at: Timestamp
) -> None:
    organization = Organization(org_id=event.org_id, slug=event.slug, create_time=at)
    try:
        connection.execute(
            insert(tables.organizations),
            {
                "org_id": event.org_id,
                "slug": event.slug,
                "position": position,
                "record": organization.SerializeToString(),
            },
        )
    except IntegrityError as error:
        raise OrganizationExistsError(
            f"slug: an organization {event.slug!r} exists already", slug=event.slug
        ) from error


def _token_created(
    connection: Connection, position: int, event: events.TokenCreated, at: Timestamp
) -> None:
    token = Token(
        token_id=event.token_id,
        org_id=event.org_id,
        name=event.name,
        scopes=event.scopes,
        create_time=at,
        expire_time=event.expire_time if event.HasField("expire_time") else None,
    )
    connection.execute(
        insert(tables.tokens),
        {
            "token_id": event.token_id,
            "org_id": event.org_id,
            "position": position,
            "changed_position": position,
            "record": token.SerializeToString(),
        },
    )


def _token_revoked(
    connection: Connection, position: int, event: events.TokenRevoked, at: Timestamp
) -> None:
    row = tables.tokens.c.token_id == event.token_id
    token = Token.FromString(
        connection.execute(select(tables.tokens.c.record).where(row)).scalar_one()
    )
    token.revoke_time.CopyFrom(at)
    connection.execute(
        update(tables.tokens).where(row),
        {"changed_position": position, "record": token.SerializeToString()},
    )


def _checkpoint(
    connection: Connection, recorded: RecordedEvent, event: CheckpointEvent, at: Timestamp
) -> None:
    columns = tables.checkpoints.c
    match event:
        case events.HoldTaken():
            connection.execute(
                insert(tables.holds),
                {
                    "checkpoint_id": event.checkpoint_id,
                    "holder_id": event.holder_id,
                    "position": recorded.position,
                    "taken_at": at.ToMicroseconds(),
                },
            )
        case events.HoldReleased():
            connection.execute(
                delete(tables.holds).where(
                    and_(
                        tables.holds.c.checkpoint_id == event.checkpoint_id,
                        tables.holds.c.holder_id == event.holder_id,
                    )
                )
            )
        case events.CheckpointRegistrationStarted():
            after = record.fold(None, event, at)
            connection.execute(
                insert(tables.checkpoints),
                {
                    "checkpoint_id": event.checkpoint_id,
                    "org_id": event.org_id,
                    "position": recorded.position,
                    "deleted": False,
                    "copying": True,
                    "failed": False,
                    "reclaimed": False,
                    "record": after.SerializeToString(),
                },
            )
        case _:
            row = columns.checkpoint_id == event.checkpoint_id
            before = connection.execute(select(columns.record).where(row)).scalar_one()
            after = record.fold(Checkpoint.FromString(before), event, at)
            reclaimed = after.state == Checkpoint.STATE_RECLAIMED
            failed = bool(after.state_reason)
            connection.execute(
                update(tables.checkpoints).where(row),
                {
                    "deleted": record.is_hidden(after),
                    "copying": not (reclaimed or failed or after.digest),
                    "failed": failed,
                    "reclaimed": reclaimed,
                    "record": after.SerializeToString(),
                },
            )
