"""Loads as agents tell them, and as plans are given them."""

from datetime import timedelta

from tests.unit.scheduler.world import CPU_QUEUE, World

from engineshed.api.agent.v1.agent_service_pb2 import NodeStatus, ReplicaStatus
from engineshed.api.scheduler.v1.endpoint_service_pb2 import Replica
from engineshed.scheduler.domain.commands import Stop
from engineshed.scheduler.domain.load_history import Windows
from engineshed.scheduler.domain.scaling import Scaling
from engineshed.scheduler.loads import Loads

SECOND = timedelta(seconds=1)
WINDOWS = Windows(up=4 * SECOND, down=8 * SECOND, reclaim=2 * SECOND, stale=8 * SECOND)


class Told:
    """A node whose agent tells, every two seconds, how many requests each replica has."""

    def __init__(self, gpus: int = 4) -> None:
        self.world = World()
        self.node_id = self.world.join(gpus)
        self.loads = Loads(self.world.view, WINDOWS)
        self._totals: dict[str, float] = {}

    def elastic(self, most: int = 3) -> str:
        endpoint_id = self.world.create(scaling=Scaling(1, most))
        self.world.plan()
        self.world.all_ready(endpoint_id)
        return endpoint_id

    def tell(self, seconds: int, **in_flight: float) -> None:
        """Let time pass; endpoints that are not named have no requests."""
        for _ in range(0, seconds, 2):
            self.world.sleep(2)
            replicas = [
                self._status(endpoint.endpoint_id, replica.replica_id, in_flight)
                for endpoint, replica in self.world.view.replicas_on(self.node_id)
                if replica.ready
            ]
            self.loads.note(self.node_id, NodeStatus(replicas=replicas), self.world.now)

    def _status(
        self, endpoint_id: str, replica_id: str, in_flight: dict[str, float]
    ) -> ReplicaStatus:
        load = in_flight.get(endpoint_id, 0.0)
        total = self._totals[replica_id] = self._totals.get(replica_id, 0.0) + 2 * load
        status = ReplicaStatus(
            replica_id=replica_id,
            endpoint_id=endpoint_id,
            state=Replica.STATE_READY,
            in_flight_seconds=total,
        )
        status.idle_age.FromTimedelta(timedelta(0) if load else 5 * SECOND)
        return status


def test_a_plan_is_given_the_loads_that_were_told_since_the_last_one() -> None:
    told = Told()
    endpoint_id = told.elastic()
    told.world.running()  # of a fixed number
    told.tell(12, **{endpoint_id: 6})
    signals = told.loads.take((), told.world.now)
    assert signals.loads.keys() == {endpoint_id}
    assert signals.loads[endpoint_id].low == 6
    assert told.loads.take((), told.world.now).loads == {}


def test_of_an_endpoint_that_was_stopped_nothing_is_kept() -> None:
    told = Told()
    endpoint_id = told.elastic()
    told.tell(12, **{endpoint_id: 6})
    told.world.tell(endpoint_id, Stop())
    assert told.loads.take((), told.world.now).loads == {}
    told.world.sleep(61)
    told.loads.take((), told.world.now)
    assert told.loads._history.endpoint_ids == frozenset()


def test_a_queue_is_planned_again_when_more_could_be_reclaimed_for_it() -> None:
    told = Told(gpus=2)
    endpoint_id = told.elastic()
    told.world.grow(endpoint_id)
    told.tell(4, **{endpoint_id: 1})
    told.world.create()
    assert told.loads.reclaimable(told.world.now) == set()
    told.tell(2)
    assert told.loads.reclaimable(told.world.now) == {CPU_QUEUE}
    (extra,) = told.world.endpoint(endpoint_id).opportunistic
    assert told.loads.take([CPU_QUEUE], told.world.now).idle == {extra.replica_id}
    told.tell(2)
    assert told.loads.reclaimable(told.world.now) == set(), "nothing new"


def test_a_clock_that_is_put_back_holds_nothing_up() -> None:
    told = Told()
    endpoint_id = told.elastic()
    told.tell(12, **{endpoint_id: 6})
    told.loads.take((), told.world.now)
    told.world.sleep(-3600)
    told.tell(4, **{endpoint_id: 6})
    load = told.loads.take((), told.world.now).loads[endpoint_id]
    assert (load.low, load.high) == (0, None), "both windows begin anew"
    told.tell(12, **{endpoint_id: 6})
    assert told.loads.take((), told.world.now).loads[endpoint_id].low == 6
