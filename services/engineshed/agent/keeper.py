"""The keeper of one replica: looks at it, does what `next_action` says, and looks again."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

import grpc
import structlog

from engineshed import processes
from engineshed.agent.claims import Claims
from engineshed.agent.domain import life, report
from engineshed.agent.domain.desired import Goal, goal_of
from engineshed.agent.domain.life import Conclude, End, Failure, Outcome, Step
from engineshed.agent.engines.cache import Engine
from engineshed.agent.gpus import engine_memory
from engineshed.agent.preparation import Progress, Workshop, failure_of
from engineshed.agent.replicas import (
    FrontNotStartedError,
    ReplicaDirectory,
    ReplicaRecord,
    exit_of,
)
from engineshed.agent.watch import Watch
from engineshed.api.agent.v1.agent_service_pb2 import DesiredReplica, ReplicaStatus
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.processes import ProcessIdentity
from engineshed.runtime.tls import TlsPeer
from engineshed.triton.engine import EngineManifest, EngineManifestError

LOOK_SECONDS: Final = 0.25
"""How soon the end of a process is noticed."""
GRACE_SECONDS: Final = 20.0
"""How long a front may take to end itself and its Triton after it was asked."""
TROUBLE_SECONDS: Final = 3.0
"""The pause after something on the host went wrong, e.g. its disk is full."""
DRAIN_SECONDS: Final = 120.0
"""How long draining may take when the scheduler does not say."""

log = structlog.get_logger()


def uptime() -> float:
    """Return the seconds since the host's boot, the same clock for every process on it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Means:
    """What every keeper works with."""

    workshop: Workshop
    claims: Claims
    front: Sequence[str]
    """The program of a front."""
    boot_id: str
    tls: TlsPeer | None = None
    """How to dial fronts, which have the agent's certificate; None: in plain text."""


class Keeper:
    """Keeps one replica as it is wanted, until nothing of it is left but its folder."""

    def __init__(
        self,
        means: Means,
        directory: ReplicaDirectory,
        record: ReplicaRecord,
        changed: Callable[[], None],
    ) -> None:
        """Begin with what is on disk; `changed` is called when there is something to report."""
        self._means = means
        self._directory = directory
        self._record = record
        self._written: ReplicaRecord | None = None
        self._changed = changed
        self._told = ReplicaStatus()
        self._desired: DesiredReplica | None = None
        self._goal = Goal.KEEP
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._preparation: asyncio.Task[Engine] | None = None
        self._progress = Progress(Replica.STATE_FETCHING, 0.0, "")
        self._child: subprocess.Popen[bytes] | None = None
        self._watch = Watch(directory, self._wake.set, means.tls)
        self._watched = False  # its front was seen alive
        self._log = log.bind(replica_id=record.replica_id, endpoint_id=record.endpoint_id)

    @property
    def record(self) -> ReplicaRecord:
        """What is remembered of the replica."""
        return self._record

    def want(self, desired: DesiredReplica | None) -> None:
        """Work towards what a desired state says of the replica; None: it does not name it."""
        self._desired = desired
        goal = goal_of(desired)
        if goal is not self._goal:
            self._log.info("replica_wanted", goal=goal.name)
            self._goal = goal
            self._wake.set()

    def status(self) -> ReplicaStatus:
        """Return what the scheduler is told of the replica."""
        record, said = self._record, self._watch.said
        base = ReplicaStatus(
            replica_id=record.replica_id,
            endpoint_id=record.endpoint_id,
            engine_digest=record.engine_digest,
            engine_backend=record.engine_backend,
            engine_kind=record.engine_kind,
            engine_memory_bytes=record.engine_memory_bytes,
        )
        if record.outcome is not None:
            return report.status(base, record.state, self._age(), record.outcome.failure)
        if record.process is not None and said is not None:
            base.url = said.http_url
            base.progress, base.progress_message = said.progress, said.progress_message
            base.in_flight = self._watch.in_flight or 0
            base.in_flight_seconds = self._watch.in_flight_seconds
            if (idle := self._watch.idle_seconds) is not None:
                base.idle_age.CopyFrom(report.seconds(idle))
        elif self._preparation is not None:
            base.progress, base.progress_message = self._progress.fraction, self._progress.message
        return report.status(base, record.state, self._age(), self._watch.failure)

    async def wait_settled(self) -> None:
        """Return once `status` tells what is the case, and no longer what was before a restart."""
        await self._settled.wait()

    async def run(self) -> None:
        """Do what must be done until the replica is to be forgotten and nothing of it runs."""
        try:
            await self._recover()
            while await self._step():
                pass
        finally:
            await self._let_go()

    async def _step(self) -> bool:
        """Look once and do what that gives; False when nothing is left to do."""
        try:
            seen = await self._look()
            await self._note(seen)
            if not isinstance(seen, life.Gone):
                self._settled.set()
            action = life.next_action(self._goal, seen, self._drain_timeout())
            if action is Step.REMOVE:
                return False
            await self._do(action)
        except (OSError, processes.ProcessStuckError) as error:
            self._log.error("replica_in_trouble", error=str(error))
            self._settled.set()
            await asyncio.sleep(TROUBLE_SECONDS)
        return True

    # --- seeing ---------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Find the front that was started just before the agent was killed; claim its GPUs."""
        if self._record.process is None and self._record.outcome is None:
            found = await asyncio.to_thread(self._directory.find_front)
            if found is not None:
                self._record = replace(self._record, process=found)
        record = self._record
        running = record.process is not None and record.outcome is None
        if running and not self._means.claims.take(record.replica_id, record.gpus):
            others = self._means.claims.others(record.replica_id, record.gpus)
            self._log.error("gpus_shared", gpus=record.gpus, others=others)

    async def _look(self) -> life.Seen:
        record = self._record
        if record.outcome is not None:
            return life.Ended(record.outcome)
        if record.process is None:
            return self._look_at_preparation()
        alive = processes.is_alive(record.process)
        watch = self._watch
        await watch.look(uptime(), alive=alive)
        if not alive:
            return life.Gone(
                phase=watch.phase,
                failure=watch.failure,
                intended=record.intended,
                rebooted=record.process.boot_id != self._means.boot_id,
                watched=self._watched,
                exit=exit_of(self._child) if self._child else "",
            )
        self._watched = True
        await self._find_triton(record.process)
        since = record.draining_since
        return life.Running(
            phase=watch.phase,
            in_flight=watch.in_flight,
            missed_polls=watch.missed_polls,
            silent_seconds=watch.silent_seconds,
            draining_seconds=0.0 if since is None else uptime() - since,
            failure=watch.failure,
        )

    def _look_at_preparation(self) -> life.Seen:
        preparation = self._preparation
        if preparation is None:
            return life.Idle()
        if not preparation.done():
            return life.Preparing()
        error = preparation.exception()
        if error is None:
            return life.Prepared()
        failure = failure_of(error) if isinstance(error, Exception) else None
        if failure is None:
            self._log.error("preparation_failed", exc_info=error)
            failure = Failure(
                "AGENT_ERROR", f"a fault of the agent: {type(error).__name__}", retryable=True
            )
        return life.Unpreparable(failure)

    def _measure(self) -> int:
        """Return what its engine takes of each GPU beside the cache, bytes; 0: unknown. Blocks."""
        spec, said = self._directory.spec(), self._watch.said
        gpus = self._means.workshop.inventory.of(self._record.gpus)
        if spec is None or said is None or not gpus:
            return 0
        try:
            manifest = EngineManifest.read(Path(spec.engine_directory))
        except EngineManifestError as error:
            self._log.warning("memory_not_measured", error=str(error))
            return 0
        return engine_memory(gpus, said.kv_cache_tokens * manifest.kv_token_bytes)

    async def _find_triton(self, front: ProcessIdentity) -> None:
        """Write down who the front's Triton is, once there is one."""
        pid = self._watch.said.triton_pid if self._watch.said else 0
        known = self._record.triton.pid if self._record.triton else 0
        if pid != known and (triton := await self._watch.find_triton(front)):
            await self._remember(replace(self._record, triton=triton))

    def _drain_timeout(self) -> float:
        if self._desired is None or not self._desired.HasField("drain_timeout"):
            return DRAIN_SECONDS
        return self._desired.drain_timeout.ToNanoseconds() / 1e9

    def _age(self) -> float:
        """Return how long it has been in its state."""
        record = self._record
        same_boot = record.boot_id == self._means.boot_id
        return uptime() - record.since if same_boot else uptime()

    async def _note(self, seen: life.Seen) -> None:
        """Remember the state that this gives, and since when; tell that there is news."""
        record = self._record
        state = report.state_of(seen, self._goal, self._progress.stage, record.state)
        if state != record.state:
            if state == Replica.STATE_READY:
                taken = await asyncio.to_thread(self._measure)
                record = replace(record, engine_memory_bytes=taken or record.engine_memory_bytes)
            self._log.info("replica_state", state=Replica.State.Name(state))
            boot_id = self._means.boot_id
            record = replace(record, state=state, since=uptime(), boot_id=boot_id)
        running = isinstance(seen, life.Running)
        if running and self._goal is Goal.DRAIN and record.draining_since is None:
            record = replace(record, draining_since=uptime())
        await self._remember(record)
        news = report.without_times(self.status())
        if news != self._told:
            self._told = news
            self._changed()

    async def _remember(self, record: ReplicaRecord) -> None:
        """Keep the record in mind and on disk; on a full one, that is tried at every look."""
        self._record = record
        try:
            await self._write()
        except OSError as error:
            # What a front that was started did meanwhile can be found out again.
            self._log.error("record_not_written", error=str(error))

    async def _write(self) -> None:
        if self._record is not self._written:
            record = self._record
            await asyncio.to_thread(self._directory.write, record)
            self._written = record

    # --- doing ----------------------------------------------------------------------------------

    async def _do(self, action: life.Action) -> None:
        match action:
            case Step.WAIT | Step.REMOVE:
                await self._wait()
            case Step.PREPARE:
                assert self._desired is not None
                self._preparation = asyncio.create_task(
                    self._means.workshop.prepare(self._desired, self._directory, self._heard)
                )
                self._preparation.add_done_callback(lambda _: self._wake.set())
            case Step.GIVE_UP_PREPARING:
                await self._stop_preparing()
            case Step.START:
                await self._start()
            case Step.ASK_TO_DRAIN:
                await self._ask_to_drain()
            case End():
                await self._end(action)
            case Conclude(outcome):
                await self._conclude(outcome)
            case _:
                assert_never(action)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass  # time for another look
        self._wake.clear()

    def _heard(self, progress: Progress) -> None:
        self._progress = progress
        self._wake.set()

    async def _stop_preparing(self) -> None:
        if self._preparation is not None:
            self._preparation.cancel()
            await asyncio.gather(self._preparation, return_exceptions=True)
            self._preparation = None

    async def _start(self) -> None:
        assert self._preparation is not None
        if not self._means.claims.take(self._record.replica_id, self._record.gpus):
            self._progress = replace(self._progress, message="waiting until its GPUs are free")
            await self._wait()
            return
        await self._write()  # a folder without a record is taken for one where nothing runs
        engine = self._preparation.result()
        visible = self._means.workshop.inventory.visible(self._record.gpus)
        try:
            process, self._child = await asyncio.to_thread(
                self._directory.start_front, self._means.front, visible
            )
        except FrontNotStartedError as error:
            await self._conclude(Outcome(Failure("REPLICA_CRASHED", str(error), retryable=True)))
            return
        self._preparation = None
        self._watched = True
        self._log.info("replica_started", pid=process.pid, engine=engine.manifest.digest)
        await self._remember(
            replace(
                self._record,
                process=process,
                engine_digest=engine.manifest.digest,
                engine_backend=engine.manifest.backend,
                engine_kind=engine.manifest.engine_kind,
            )
        )

    async def _ask_to_drain(self) -> None:
        try:
            await self._watch.drain()
        except grpc.aio.AioRpcError as error:
            self._log.warning("drain_not_answered", error=error.details())
        await self._wait()

    async def _end(self, action: End) -> None:
        process = self._record.process
        assert process is not None
        # Written down first: whoever looks next, even after a crash, knows whose doing it was.
        await self._remember(replace(self._record, intended=action.intended))
        self._log.info("replica_ending", ask=action.ask, intended=str(action.intended))
        if action.ask:
            await processes.terminate(process, GRACE_SECONDS, ask=signal.SIGINT)
        else:
            await processes.kill_family(process)

    async def _conclude(self, outcome: Outcome) -> None:
        """Record how it ended, once nothing of it runs any more."""
        for process in (self._record.process, self._record.triton):
            if process is not None:
                await processes.kill_family(process)
        self._means.claims.give_back(self._record.replica_id)
        await self._let_go()
        self._log.info("replica_ended", outcome=outcome.name)
        if (failure := outcome.failure) is not None:  # nothing else may have been logged
            said = [f"failed: {failure.code}: {failure.reason}", *failure.evidence]
            try:
                await asyncio.to_thread(self._directory.log, "\n  ".join(said))
            except OSError as error:  # the scheduler is told anyway
                self._log.error("failure_not_logged", error=str(error))
        await self._remember(replace(self._record, outcome=outcome))
        if outcome.name in life.CONDEMNING:
            await self._means.workshop.condemn(self._directory)

    async def _let_go(self) -> None:
        await self._stop_preparing()
        await self._watch.close()
