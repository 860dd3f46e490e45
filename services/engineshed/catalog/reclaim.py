"""The loops that give up what nobody needs: bytes of deleted checkpoints, and orphaned holds."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

import grpc
import structlog

from engineshed.api.catalog.v1 import events_pb2 as events
from engineshed.api.catalog.v1.hold_service_pb2 import Hold
from engineshed.api.scheduler.v1.endpoint_service_pb2 import GetEndpointRequest
from engineshed.api.scheduler.v1.endpoint_service_pb2_grpc import EndpointServiceStub
from engineshed.catalog.artifacts import ArtifactStore
from engineshed.catalog.commands import by_catalog, change_checkpoint
from engineshed.catalog.domain.checkpoint import Reclaim, ReleaseHold
from engineshed.catalog.domain.errors import StillNeededError
from engineshed.catalog.registration import Registrar
from engineshed.catalog.store import CatalogStore
from engineshed.errors import Kind
from engineshed.eventstore import StoreUnavailableError, until_available
from engineshed.rpc import error_from
from engineshed.runtime import utc_now

_SWEEP_S: Final = 60.0
_DEADLINE_S: Final = 5.0
_FREEING: Final = [
    message.DESCRIPTOR.full_name for message in (events.CheckpointDeleted, events.HoldReleased)
]

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Reclaimer:
    """Gives the bytes of deleted checkpoints up when the last hold on them is gone.

    It is recorded first and done then; what a killed process did not do is found by the next pass.
    """

    def __init__(self, store: CatalogStore, artifacts: ArtifactStore, registrar: Registrar) -> None:
        self._store = store
        self._artifacts = artifacts
        self._registrar = registrar
        self._seen = 0

    async def run(self) -> None:
        """Reclaim at once when something is freed, and look for leftovers, until cancelled."""
        self._seen = await until_available(self._store.events.last_position)
        while True:
            try:
                await self._pass()
            except (StoreUnavailableError, OSError) as error:
                log.warning("reclaiming later", error=str(error), retry_in_s=_SWEEP_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_S):
                    await self._something_freed()

    async def _something_freed(self) -> None:
        async for recorded in self._store.events.follow(self._seen, types=_FREEING):
            self._seen = recorded.position
            return

    async def _pass(self) -> None:
        for checkpoint_id in await self._store.reclaimable():
            await self._reclaim(checkpoint_id)
        there = await asyncio.to_thread(self._artifacts.checkpoint_ids)
        for checkpoint_id in await self._store.without_bytes(there):
            if not self._registrar.cancel(checkpoint_id):  # else its bytes are the registrar's
                await self._remove(checkpoint_id)

    async def _reclaim(self, checkpoint_id: str) -> None:
        record = await self._store.checkpoint(checkpoint_id)
        assert record is not None, "it was found a moment ago, and records stay"
        with suppress(StillNeededError):
            await change_checkpoint(
                self._store.events, checkpoint_id, Reclaim(), by_catalog(record.org_id)
            )

    async def _remove(self, checkpoint_id: str) -> None:
        try:
            await asyncio.to_thread(self._artifacts.remove, checkpoint_id)
        except OSError:
            log.exception("bytes not removed yet", checkpoint_id=checkpoint_id, retry_in_s=_SWEEP_S)
        else:
            log.info("bytes removed", checkpoint_id=checkpoint_id)


class OrphanHolds:
    """Gives back holds whose endpoint never came to be.

    The scheduler takes a hold before it records the endpoint. If it was killed in between, nobody
    else will ever give the hold back.
    """

    def __init__(
        self,
        store: CatalogStore,
        scheduler: grpc.aio.Channel,
        *,
        age_s: float,
        interval_s: float,
    ) -> None:
        """Look every `interval_s` for holds older than `age_s`, both in seconds."""
        self._store = store
        self._endpoints = EndpointServiceStub(scheduler)
        self._age = timedelta(seconds=age_s)
        self._interval_s = interval_s
        self._born: set[str] = set()  # endpoints never go away again once they are recorded

    async def run(self) -> None:
        """Look for orphans until cancelled."""
        while True:
            for hold in await until_available(self._aged):
                try:
                    await self._judge(hold)
                except (StoreUnavailableError, grpc.aio.AioRpcError) as error:
                    log.warning("hold not judged", holder_id=hold.holder_id, error=str(error))
            await asyncio.sleep(self._interval_s)

    async def _aged(self) -> list[Hold]:
        return await self._store.holds_before(utc_now() - self._age)

    async def _judge(self, hold: Hold) -> None:
        if hold.holder_id in self._born:
            return
        if await self._exists(hold.holder_id):
            self._born.add(hold.holder_id)
            return
        record = await self._store.checkpoint(hold.checkpoint_id)
        assert record is not None, "a hold has a checkpoint, and records stay"
        log.info("orphaned hold", checkpoint_id=hold.checkpoint_id, holder_id=hold.holder_id)
        await change_checkpoint(
            self._store.events,
            hold.checkpoint_id,
            ReleaseHold(hold.holder_id),
            by_catalog(record.org_id),
        )

    async def _exists(self, endpoint_id: str) -> bool:
        """Ask the scheduler; only its own NOT_FOUND counts as a no."""
        request = GetEndpointRequest(endpoint_id=endpoint_id)
        try:
            await self._endpoints.GetEndpoint(request, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            answer = error_from(error)
            if answer is None or answer.kind is not Kind.NOT_FOUND:
                raise
            if answer.reason != "ENDPOINT_NOT_FOUND":
                raise
            return False
        return True
