"""What the catalog knows now: queries on its read models."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Connection, Select, Table, exists, insert, select

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.api.catalog.v1.hold_service_pb2 import Hold
from engineshed.api.catalog.v1.organization_service_pb2 import Organization
from engineshed.api.catalog.v1.token_service_pb2 import Token, TokenGrant
from engineshed.catalog import tables
from engineshed.catalog.pages import Page, PageRequest, page_of
from engineshed.catalog.projection import project
from engineshed.eventstore import EventStore
from engineshed.runtime import to_timestamp

M = TypeVar("M", bound=Message)

SERVICE: Final = "catalog"

# There is one catalog, so its entries in the broker's buckets are all of one term.
TERM: Final = 1


_IDS_AT_ONCE: Final = 1000  # in one query; databases have limits


@dataclass(frozen=True, slots=True)
class RegisteredSource:
    """How a checkpoint's source was when its registration began."""

    anywhere: bool  # an operator asked for it, who may read everywhere
    modified_ns: Mapping[str, int]  # of each file, by its path


class CatalogStore:
    """The read models, and `events`, the log that they are made of."""

    def __init__(self, events: EventStore) -> None:
        self.events = events

    @classmethod
    async def open(cls, url: str) -> "CatalogStore":
        """Open the store at an SQLAlchemy URL; what is missing is made."""
        return cls(
            await EventStore.open(url, service=SERVICE, tables=tables.TABLES, project=project)
        )

    async def organization(self, org_id: str) -> Organization | None:
        """Return an organization, or None when there is none with this id."""
        return await self._one(
            Organization,
            select(tables.organizations.c.record).where(tables.organizations.c.org_id == org_id),
        )

    async def organization_of_slug(self, slug: str) -> Organization | None:
        """Return an organization, or None when there is none with this slug."""
        return await self._one(
            Organization,
            select(tables.organizations.c.record).where(tables.organizations.c.slug == slug),
        )

    async def organizations(self, page: PageRequest) -> Page[Organization]:
        """Return a page of all organizations, oldest first."""
        columns = tables.organizations.c
        query = select(columns.position, columns.record).order_by(columns.position)
        if page.after_position is not None:
            query = query.where(columns.position > page.after_position)
        return await self._page(Organization, query, page.size)

    async def token(self, token_id: str) -> Token | None:
        """Return a token, or None when there is none with this id."""
        return await self._one(
            Token, select(tables.tokens.c.record).where(tables.tokens.c.token_id == token_id)
        )

    async def tokens(self, org_id: str, page: PageRequest) -> Page[Token]:
        """Return a page of an organization's tokens, newest first."""
        return await self._page(Token, _newest_first(tables.tokens, org_id, page), page.size)

    async def grant(self, secret_sha256: str) -> TokenGrant | None:
        """Return what a token may do, by its hash; a tombstone when it was revoked."""
        query = _GRANTS.where(tables.token_hashes.c.secret_sha256 == secret_sha256)
        return (await self._grants(query)).get(secret_sha256)

    async def grant_of(self, token_id: str) -> dict[str, TokenGrant]:
        """Return what one token may do, by its hash."""
        return await self._grants(_GRANTS.where(tables.tokens.c.token_id == token_id))

    async def grants(self) -> dict[str, TokenGrant]:
        """Return what all tokens may do, by their hashes; tombstones for those revoked."""
        return await self._grants(_GRANTS)

    async def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """Return a checkpoint, deleted ones too, or None when there is none with this id."""
        columns = tables.checkpoints.c
        return await self._one(
            Checkpoint, select(columns.record).where(columns.checkpoint_id == checkpoint_id)
        )

    async def checkpoints(
        self, org_id: str, page: PageRequest, *, show_deleted: bool = False
    ) -> Page[Checkpoint]:
        """Return a page of an organization's checkpoints, newest first."""
        query = _newest_first(tables.checkpoints, org_id, page)
        if not show_deleted:
            query = query.where(tables.checkpoints.c.deleted.is_(False))
        return await self._page(Checkpoint, query, page.size)

    async def copying(self) -> list[str]:
        """Return the checkpoints whose registration is to go on, oldest first."""
        columns = tables.checkpoints.c
        query = select(columns.checkpoint_id).where(columns.copying).order_by(columns.position)
        return await self._ids(query)

    async def reclaimable(self) -> list[str]:
        """Return the deleted checkpoints that nobody holds and whose bytes are still kept."""
        columns = tables.checkpoints.c
        held = exists().where(tables.holds.c.checkpoint_id == columns.checkpoint_id)
        query = select(columns.checkpoint_id).where(
            columns.deleted, columns.reclaimed.is_(False), ~held
        )
        return await self._ids(query)

    async def without_bytes(self, checkpoint_ids: Collection[str]) -> list[str]:
        """Return those of the checkpoints whose bytes nobody needs: failed or reclaimed ones."""
        columns = tables.checkpoints.c
        unneeded = select(columns.checkpoint_id).where(columns.failed | columns.reclaimed)
        ordered = sorted(checkpoint_ids)
        found: list[str] = []
        for begin in range(0, len(ordered), _IDS_AT_ONCE):
            some = ordered[begin : begin + _IDS_AT_ONCE]
            found += await self._ids(unneeded.where(columns.checkpoint_id.in_(some)))
        return found

    async def of_source(self, org_id: str, source_uri: str) -> Checkpoint | None:
        """Return the newest checkpoint that came from `source_uri` and neither failed nor went."""
        columns = tables.checkpoints.c
        query = (
            select(columns.record)
            .where(columns.org_id == org_id, columns.failed.is_(False), columns.deleted.is_(False))
            .order_by(columns.position.desc())
        )
        found = await self.events.query(lambda connection: connection.scalars(query).all())
        records = (Checkpoint.FromString(record) for record in found)
        return next((record for record in records if record.source_uri == source_uri), None)

    async def source_of(self, checkpoint_id: str) -> RegisteredSource:
        """Return how a checkpoint's source was when its registration began."""
        columns = tables.registrations.c
        query = select(columns.anywhere, columns.modified_ns).where(
            columns.checkpoint_id == checkpoint_id
        )
        row = await self.events.query(lambda connection: connection.execute(query).one())
        return RegisteredSource(row.anywhere, json.loads(row.modified_ns))

    async def holds(self, checkpoint_id: str) -> list[Hold]:
        """Return the holds on a checkpoint, oldest first."""
        return await self._holds(_HOLDS.where(tables.holds.c.checkpoint_id == checkpoint_id))

    async def holds_before(self, moment: datetime) -> list[Hold]:
        """Return the holds that were taken before a moment, oldest first."""
        taken_at = to_timestamp(moment).ToMicroseconds()
        return await self._holds(_HOLDS.where(tables.holds.c.taken_at < taken_at))

    async def _grants(self, query: Select[str, bytes, int]) -> dict[str, TokenGrant]:
        rows = await self.events.query(lambda connection: connection.execute(query).all())
        return {hashed: _grant(record, changed) for hashed, record, changed in rows}

    async def _holds(self, query: Select[str, str, int]) -> list[Hold]:
        rows = await self.events.query(lambda connection: connection.execute(query).all())
        return [
            Hold(checkpoint_id=checkpoint_id, holder_id=holder_id, create_time=_stamp(taken_at))
            for checkpoint_id, holder_id, taken_at in rows
        ]

    async def _ids(self, query: Select[str]) -> list[str]:
        return await self.events.query(lambda connection: list(connection.scalars(query)))

    async def _one(self, message: type[M], query: Select[bytes]) -> M | None:
        found = await self.events.query(lambda connection: connection.scalar(query))
        return None if found is None else message.FromString(found)

    async def _page(self, message: type[M], query: Select[int, bytes], size: int) -> Page[M]:
        rows = await self.events.query(
            lambda connection: connection.execute(query.limit(size + 1)).all()
        )
        return page_of([(str(key), message.FromString(record)) for key, record in rows], size)


def keep_hash(secret_sha256: str, token_id: str) -> Callable[[Connection], None]:
    """Return what writes down the hash of a token's secret, beside the event that makes it."""

    def write(connection: Connection) -> None:
        connection.execute(
            insert(tables.token_hashes), {"secret_sha256": secret_sha256, "token_id": token_id}
        )

    return write


def keep_source(checkpoint_id: str, source: RegisteredSource) -> Callable[[Connection], None]:
    """Return what writes down how a source was, beside the event that begins its registration."""

    def write(connection: Connection) -> None:
        connection.execute(
            insert(tables.registrations),
            {
                "checkpoint_id": checkpoint_id,
                "anywhere": source.anywhere,
                "modified_ns": json.dumps(dict(source.modified_ns)).encode(),
            },
        )

    return write


_GRANTS: Final[Select[str, bytes, int]] = select(
    tables.token_hashes.c.secret_sha256, tables.tokens.c.record, tables.tokens.c.changed_position
).join_from(
    tables.token_hashes,
    tables.tokens,
    tables.tokens.c.token_id == tables.token_hashes.c.token_id,
)
_HOLDS: Final[Select[str, str, int]] = select(
    tables.holds.c.checkpoint_id, tables.holds.c.holder_id, tables.holds.c.taken_at
).order_by(tables.holds.c.position)


def _newest_first(table: Table, org_id: str, page: PageRequest) -> Select[int, bytes]:
    query = (
        select(table.c.position, table.c.record)
        .where(table.c.org_id == org_id)
        .order_by(table.c.position.desc())
    )
    if page.after_position is not None:
        query = query.where(table.c.position < page.after_position)
    return query


def _grant(record: bytes, changed_position: int) -> TokenGrant:
    token = Token.FromString(record)
    return TokenGrant(
        token_id=token.token_id,
        org_id=token.org_id,
        scopes=token.scopes,
        expire_time=token.expire_time if token.HasField("expire_time") else None,
        term=TERM,
        generation=changed_position,
        tombstone=token.HasField("revoke_time"),
    )


def _stamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
