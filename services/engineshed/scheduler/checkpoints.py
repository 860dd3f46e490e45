"""Endpoints that wait for their checkpoint to be registered, and what becomes of them.

The catalog's events say at once when to look; looking every few seconds makes sure.
"""

import asyncio
from typing import Final

import structlog

from engineshed.api.catalog.v1 import events_pb2 as catalog_events
from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint as CatalogCheckpoint
from engineshed.bus import Bus, ReceivedEvent, consume, subject_of
from engineshed.errors import DomainError
from engineshed.scheduler.catalog_client import Catalog
from engineshed.scheduler.domain.commands import Fail, UseCheckpoint
from engineshed.scheduler.domain.replica import Checkpoint
from engineshed.scheduler.endpoints import Endpoints
from engineshed.scheduler.journal import Journal
from engineshed.scheduler.store import SERVICE

_KINDS: Final = ("CheckpointRegistered", "CheckpointFailed", "CheckpointReclaimed")

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class AwaitedCheckpoints:
    """Looks after the checkpoints that endpoints wait for."""

    def __init__(
        self,
        journal: Journal,
        endpoints: Endpoints,
        catalog: Catalog,
        bus: Bus,
        *,
        poll_s: float,
    ) -> None:
        self._view = journal.view
        self._endpoints = endpoints
        self._catalog = catalog
        self._bus = bus
        self._poll_s = poll_s

    async def poll(self) -> None:
        """Look at all of them every few seconds, until cancelled."""
        while True:
            for checkpoint_id in list(self._view.awaited_checkpoints):
                try:
                    await self._look_at(checkpoint_id)
                except DomainError as error:
                    log.warning(
                        "checkpoint not looked at",
                        checkpoint_id=checkpoint_id,
                        error=error.message,
                    )
            await asyncio.sleep(self._poll_s)

    async def listen(self) -> None:
        """Look at one as soon as the catalog says that something became of it, until cancelled."""
        subjects = [subject_of("catalog", aggregate="checkpoint", kind=kind) for kind in _KINDS]
        await consume(self._bus, SERVICE, subjects, self._hear)

    async def _hear(self, received: ReceivedEvent) -> None:
        match received.event:
            case (
                catalog_events.CheckpointRegistered()
                | catalog_events.CheckpointFailed()
                | catalog_events.CheckpointReclaimed()
            ) as event if self._view.awaiting(event.checkpoint_id):
                await self._look_at(event.checkpoint_id)

    async def _look_at(self, checkpoint_id: str) -> None:
        command = what_became_of(checkpoint_id, await self._catalog.checkpoint(checkpoint_id))
        if command is None:
            return
        for endpoint_id in self._view.awaiting(checkpoint_id):
            log.info("checkpoint settled", endpoint_id=endpoint_id, checkpoint_id=checkpoint_id)
            await self._endpoints.act(endpoint_id, command)


def served(found: CatalogCheckpoint) -> Checkpoint:
    """Return a checkpoint as an endpoint serves it."""
    return Checkpoint(found.checkpoint_id, found.digest, found.location)


def what_became_of(
    checkpoint_id: str, found: CatalogCheckpoint | None
) -> UseCheckpoint | Fail | None:
    """Return what follows for endpoints that wait for a checkpoint; None: they wait on.

    One that was deleted after it had been registered is served: its bytes are held.
    """
    if found is None or found.state == CatalogCheckpoint.STATE_RECLAIMED:
        return Fail("CHECKPOINT_DELETED", f"checkpoint {checkpoint_id} is gone")
    if found.state == CatalogCheckpoint.STATE_FAILED:
        reason = found.state_reason or "it could not be registered"
        return Fail("CHECKPOINT_FAILED", f"checkpoint {checkpoint_id}: {reason}")
    if found.digest:
        return UseCheckpoint(served(found))
    return None  # still being copied; a deleted one too, as long as it is held
