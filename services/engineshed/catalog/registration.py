"""The loop that registers checkpoints: copy, hash, compare, put in place, record.

A registration that was interrupted, by kill -9 too, is begun again from nothing at the next start.
While one is under way, the checkpoint's bytes in the artifact store are this loop's to remove.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from engineshed.catalog.artifacts import ArtifactStore
from engineshed.catalog.commands import by_catalog, change_checkpoint, fold_checkpoint
from engineshed.catalog.copying import CopyCancelledError, CopyError, Copying, copy_files
from engineshed.catalog.domain.checkpoint import (
    Checkpoint,
    Complete,
    Fail,
    Registration,
    mismatch,
    stream_of,
)
from engineshed.catalog.domain.manifest import ManifestLine
from engineshed.catalog.source import Stamp
from engineshed.catalog.sources import OpenSource
from engineshed.catalog.store import CatalogStore, RegisteredSource
from engineshed.errors import DomainError
from engineshed.eventstore import until_available

T = TypeVar("T")

_AT_ONCE: Final = 2  # checkpoints

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Registrar:
    """Registers checkpoints, a few at a time, in the order of `begin`."""

    def __init__(
        self, store: CatalogStore, artifacts: ArtifactStore, open_source: OpenSource
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._open_source = open_source
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="registration")
        self._under_way: dict[str, Copying] = {}
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    def begin(self, checkpoint_id: str, total_bytes: int) -> None:
        """Register a checkpoint whose registration is recorded as started."""
        if checkpoint_id not in self._under_way:
            self._under_way[checkpoint_id] = Copying(total_bytes)
            self._queue.put_nowait(checkpoint_id)

    def cancel(self, checkpoint_id: str) -> bool:
        """End a registration soon, and remove what it copied; return whether there was one."""
        copying = self._under_way.get(checkpoint_id)
        if copying is None:
            return False
        copying.cancel()
        return True

    def under_way(self, checkpoint_id: str) -> Copying | None:
        """Return the progress of a registration; None when there is none."""
        return self._under_way.get(checkpoint_id)

    async def run(self) -> None:
        """Resume what was interrupted, then register what comes, until cancelled."""
        await until_available(self._resume)
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._register(await self._queue.get()))

    async def _resume(self) -> None:
        for checkpoint_id in await self._store.copying():
            record = await self._store.checkpoint(checkpoint_id)
            if record is not None:
                self.begin(checkpoint_id, record.size_bytes)

    async def _register(self, checkpoint_id: str) -> None:
        copying = self._under_way[checkpoint_id]
        try:
            state = await until_available(lambda: self._state(checkpoint_id))
            if state is not None and state.to_be_copied:
                await self._carry_out(state, copying)
        finally:
            copying.cancel()  # when this task was cancelled, its thread is still at work
            del self._under_way[checkpoint_id]

    async def _state(self, checkpoint_id: str) -> Checkpoint | None:
        return fold_checkpoint(await self._store.events.load(stream_of(checkpoint_id)))

    async def _carry_out(self, state: Checkpoint, copying: Copying) -> None:
        outcome = await self._attempt(state, copying)
        if isinstance(outcome, Complete) and await self._record(state, outcome):
            return
        await self._remove(state.checkpoint_id)
        if isinstance(outcome, Fail):
            await self._record(state, outcome)

    async def _remove(self, checkpoint_id: str) -> None:
        try:
            await self._in_thread(lambda: self._artifacts.remove(checkpoint_id))
        except OSError:  # the reclaimer tries it again
            log.exception("bytes not removed yet", checkpoint_id=checkpoint_id)

    async def _attempt(self, state: Checkpoint, copying: Copying) -> Complete | Fail | None:
        """Return what came of the copy; None when it was cancelled."""
        source = await until_available(lambda: self._store.source_of(state.checkpoint_id))
        try:
            return Complete(await self._in_thread(lambda: self._copy(state, source, copying)))
        except CopyCancelledError:
            return None
        except (CopyError, DomainError, OSError) as error:
            return Fail(_reason(error))
        except Exception:  # a bug: the checkpoint fails, the service goes on
            log.exception("registration broke", checkpoint_id=state.checkpoint_id)
            return Fail("internal error; the log of the catalog tells more")

    async def _record(self, state: Checkpoint, outcome: Complete | Fail) -> bool:
        """Record the outcome; return False when nobody wants the checkpoint any more."""
        recorded = await until_available(
            lambda: change_checkpoint(
                self._store.events, state.checkpoint_id, outcome, by_catalog(state.org_id)
            )
        )
        log.info(
            "registration ended",
            checkpoint_id=state.checkpoint_id,
            outcome=[event.type.rpartition(".")[2] for event in recorded],
            reason=outcome.reason if isinstance(outcome, Fail) else "",
        )
        if recorded:
            return True
        # An attempt whose commit was interrupted may have recorded it.
        now = await until_available(lambda: self._state(state.checkpoint_id))
        return now is not None and now.registration is Registration.COMPLETE and not now.reclaimed

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _copy(
        self, state: Checkpoint, registered: RegisteredSource, copying: Copying
    ) -> tuple[ManifestLine, ...]:
        """Copy the files to their place in the artifact store; runs in a thread.

        Raises:
            CopyError: why it is not a checkpoint.

        """
        checkpoint_id = state.checkpoint_id
        self._artifacts.remove(checkpoint_id)  # what a killed process left
        source = self._open_source(state.source_uri, registered.anywhere)
        stamps = {
            file.path: Stamp(file.size_bytes, registered.modified_ns[file.path])
            for file in state.files
        }
        scratch = self._artifacts.new_scratch(checkpoint_id)
        lines = copy_files(source, stamps, scratch, copying)
        if reason := mismatch(state, lines):
            raise CopyError(reason)
        self._artifacts.place(scratch, checkpoint_id, lines)
        return lines


def _reason(error: Exception) -> str:
    match error:
        case DomainError(fields=[first, *_]):
            return first.message
        case OSError():
            return error.strerror or str(error)
        case _:
            return str(error)
