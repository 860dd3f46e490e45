"""What must be there before the first call: an organization, a token for it, the sample model."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from engineshed import ids
from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.auth import SCOPES, hash_token, new_secret
from engineshed.catalog.commands import by_catalog
from engineshed.catalog.domain import checkpoint, organization, token
from engineshed.catalog.domain.manifest import ManifestLine, digest_of
from engineshed.catalog.inspection import Inspection, inspect
from engineshed.catalog.source import Source
from engineshed.catalog.sources import SAMPLE_SCHEME
from engineshed.catalog.store import CatalogStore, RegisteredSource, keep_hash, keep_source
from engineshed.eventstore import StreamAppend
from engineshed.runtime import utc_now, write_private

_TOKEN_NAME: Final = "bootstrap"  # noqa: S105 - a name, no secret
_SAMPLE_NAME: Final = "sample"
_SHORTEST_SECRET: Final = 32  # characters, of a secret that an operator made

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


async def ensure_organization(store: CatalogStore, slug: str) -> str:
    """Return the id of the organization `slug`, which is made if there is none."""
    found = await store.organization_of_slug(slug)
    if found is not None:
        return found.org_id
    org_id = ids.new(ids.ORGANIZATION)
    events = organization.decide(organization.Create(org_id, slug))
    stream = organization.stream_of(org_id)
    await store.events.append(StreamAppend(stream, 0, events, by_catalog(org_id)))
    log.info("organization created", org_id=org_id, slug=slug)
    return org_id


async def ensure_token(store: CatalogStore, path: Path, org_id: str) -> None:
    """See to it that the token in `path` is known: an operator's, and admin of `org_id`.

    The file is made if it is missing. It is there before the token is, so a token whose secret is
    lost never comes to be.

    Raises:
        ValueError: the file holds something too short to be a secret.

    """
    secret = await asyncio.to_thread(_read_or_make, path)
    hashed = hash_token(secret)
    grant = await store.grant(hashed)
    if grant is not None:
        if grant.tombstone:
            log.warning(
                "the bootstrap token is revoked; remove its file and start again for a new one",
                file=str(path),
                token_id=grant.token_id,
            )
        return
    token_id = ids.new(ids.TOKEN)
    command = token.Create(
        token_id=token_id,
        org_id=org_id,
        name=_TOKEN_NAME,
        scopes=SCOPES,
        expire_time=None,
        giver=token.Giver(org_id, frozenset(SCOPES)),
        now=utc_now(),
    )
    append = StreamAppend(
        token.stream_of(token_id), 0, token.decide(None, command), by_catalog(org_id)
    )
    await store.events.append(append, write=keep_hash(hashed, token_id))
    log.info("bootstrap token created", file=str(path), token_id=token_id)


async def ensure_sample(store: CatalogStore, open_sample: Callable[[], Source]) -> str:
    """Return the platform's checkpoint of the sample model; its registration begins if it is new.

    A sample of other content is another checkpoint: its source names the digest.

    Raises:
        CheckpointInvalidError: what is there is no checkpoint.

    """
    found, digest = await asyncio.to_thread(lambda: _read_sample(open_sample()))
    source_uri = f"{SAMPLE_SCHEME}:{digest}"
    known: Checkpoint | None = await store.of_source(ids.PLATFORM, source_uri)
    if known is not None:
        return known.checkpoint_id
    checkpoint_id = ids.new(ids.CHECKPOINT)
    command = checkpoint.Register(
        checkpoint_id=checkpoint_id,
        org_id=ids.PLATFORM,
        name=_SAMPLE_NAME,
        source_uri=source_uri,
        contents=found.contents,
        expected_digest=digest,
    )
    append = StreamAppend(
        checkpoint.stream_of(checkpoint_id),
        0,
        checkpoint.decide(None, command),
        by_catalog(ids.PLATFORM),
    )
    source = RegisteredSource(anywhere=True, modified_ns=found.modified_ns)
    await store.events.append(append, write=keep_source(checkpoint_id, source))
    return checkpoint_id


def _read_or_make(path: Path) -> str:
    if not path.exists():
        write_private(path, new_secret().encode())
    secret = path.read_text().strip()
    if len(secret) < _SHORTEST_SECRET:
        raise ValueError(
            f"{path} holds no token of {_SHORTEST_SECRET} characters or more; remove it, and one "
            "is made"
        )
    return secret


def _read_sample(source: Source) -> tuple[Inspection, str]:
    found = inspect(source)
    lines: list[ManifestLine] = []
    for file in found.contents.files:
        with source.open(file.path) as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        lines.append(ManifestLine(file.path, file.size_bytes, sha256))
    return found, digest_of(lines)
