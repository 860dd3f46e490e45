"""All replicas of this node: a keeper for each, and what the scheduler wants of them."""

import asyncio
import shutil
from pathlib import Path

import structlog

from engineshed import ids
from engineshed.agent.domain.desired import Version, accepted
from engineshed.agent.keeper import Keeper, Means, uptime
from engineshed.agent.logs import LogShipper
from engineshed.agent.node import NodeFile
from engineshed.agent.replicas import ReplicaDirectory, ReplicaRecord, existing
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica, DesiredState, NodeStatus
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica

log = structlog.get_logger()


class Reconciler:
    """Brings what runs on this node to what is desired, and keeps it there."""

    def __init__(self, root: Path, means: Means, node: NodeFile, logs: LogShipper) -> None:
        """Keep a folder for each replica below `root`."""
        self._root = root
        self._means = means
        self._node = node
        self._logs = logs
        self._version = Version(term=node.term)
        self._keepers: dict[str, Keeper] = {}
        self._waiting: asyncio.Queue[Keeper] = asyncio.Queue()
        self._leaving: set[str] = set()
        self._notice = asyncio.Event()

    async def adopt(self) -> None:
        """Find what is on disk, running or ended. Call it once, before `run`."""
        for directory, record in await asyncio.to_thread(lambda: list(existing(self._root))):
            log.info("replica_adopted", replica_id=record.replica_id, process=record.process)
            await self._keep(directory, record)

    async def wait_settled(self) -> None:
        """Return once it is known how everything is that was adopted."""
        for keeper in list(self._keepers.values()):
            await keeper.wait_settled()

    async def apply(self, desired: DesiredState) -> None:
        """Work towards `desired` from now on.

        Raises:
            StaleDesiredStateError: a later one came before; nothing changes.

        """
        version = accepted(self._version, desired)
        await self._remember_term(version.term)
        wanted = {replica.replica_id: replica for replica in desired.replicas}
        for replica_id, replica in wanted.items():
            if not ids.is_id(replica_id, ids.REPLICA) or replica_id in self._leaving:
                log.error("replica_refused", replica_id=replica_id)  # never sent by ours
            elif replica_id not in self._keepers:
                await self._make(replica)
        for replica_id, keeper in self._keepers.items():
            keeper.want(wanted.get(replica_id))
        # Last: with this generation a status that lacks a replica says that it is gone.
        self._version = version
        self._notice.set()

    def status(self) -> NodeStatus:
        """Return everything that there is on the node."""
        return NodeStatus(
            replicas=[keeper.status() for keeper in self._keepers.values()],
            term=self._version.term,
            generation=self._version.generation,
        )

    def states(self) -> list[Replica.State.ValueType]:
        """Return where each replica is."""
        return [keeper.record.state for keeper in list(self._keepers.values())]

    async def wait_for_news(self) -> None:
        """Return when `status` says something new since this was last asked."""
        await self._notice.wait()
        self._notice.clear()

    async def run(self) -> None:
        """Run all keepers, for ever; what one of them cannot handle ends all."""
        async with asyncio.TaskGroup() as group:
            while True:
                keeper = await self._waiting.get()
                group.create_task(self._see_through(keeper), name=keeper.record.replica_id)

    async def _remember_term(self, term: int) -> None:
        try:
            await asyncio.to_thread(self._node.remember_term, term)
        except OSError as error:  # a full disk must not keep anybody from stopping replicas
            log.error("term_not_written", error=str(error))

    async def _make(self, desired: DesiredReplica) -> None:
        directory = ReplicaDirectory(self._root / desired.replica_id)
        record = ReplicaRecord(
            replica_id=desired.replica_id,
            endpoint_id=desired.endpoint_id,
            org_id=desired.org_id,
            state=Replica.STATE_PLACED,
            since=uptime(),
            boot_id=self._means.boot_id,
            gpus=tuple(desired.gpus),
        )
        await self._keep(directory, record)

    async def _keep(self, directory: ReplicaDirectory, record: ReplicaRecord) -> None:
        self._keepers[record.replica_id] = Keeper(self._means, directory, record, self._notice.set)
        await asyncio.to_thread(
            self._logs.follow,
            directory.path,
            record.org_id,
            record.endpoint_id,
            record.replica_id,
        )
        self._waiting.put_nowait(self._keepers[record.replica_id])

    async def _see_through(self, keeper: Keeper) -> None:
        """Keep a replica to its end, then remove every trace, once its logs are in the broker."""
        await keeper.run()
        replica_id = keeper.record.replica_id
        del self._keepers[replica_id]
        self._leaving.add(replica_id)
        self._notice.set()
        await self._logs.finish(replica_id)
        try:
            await asyncio.to_thread(shutil.rmtree, self._root / replica_id)
        except OSError as error:  # the next agent tries again
            log.error("replica_not_removed", replica_id=replica_id, error=str(error))
        else:
            log.info("replica_removed", replica_id=replica_id)
        self._leaving.discard(replica_id)
