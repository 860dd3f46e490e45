"""plan() on fleets of 100, 1,000 and 10,000 nodes: filling, a full pass, a turn with 100 changes.

The fleet is a View that is kept by events, as in the scheduler: nodes of 8 GPUs, four types in two
regions, two endpoints and five replicas to a node, replicas of 1, 2, 4 and 8 GPUs. One queue is
asked for more than it has, so that a part of its endpoints waits. Nothing is stored or sent.
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from benchmarks.harness import Figure, Report, Target
from tests.unit.scheduler.world import World

from engineshed.scheduler.domain.commands import Delete, Update
from engineshed.scheduler.domain.endpoint import Endpoint
from engineshed.scheduler.domain.plan import Assign, plan
from engineshed.scheduler.domain.replica import ReplicaState
from engineshed.scheduler.domain.score import Policy

NODES: Final = (100, 1_000, 10_000)
GPUS: Final = 8  # of a node
CHANGES: Final = 100
SEED: Final = 4

# Kinds of nodes with their share of the fleet, and the share of the demand that is for them.
KINDS: Final = {
    ("fra", "h100-sxm"): (0.25, 0.25),
    ("fra", "h200-sxm"): (0.15, 0.22),  # the full one
    ("fra", "a100-sxm"): (0.10, 0.08),
    ("nyc", "h100-sxm"): (0.25, 0.23),
    ("nyc", "h200-sxm"): (0.15, 0.14),
    ("nyc", "l40s"): (0.10, 0.08),
}
# GPUs of a replica, and how often.
SIZES: Final = {1: 0.75, 2: 0.15, 4: 0.07, 8: 0.03}
LARGE: Final = 4  # whose replicas come alone
ENDPOINTS_PER_NODE: Final = 2
REPLICAS: Final = (1, 1, 2, 2, 2, 3, 3, 4, 7)

POLICY: Final = Policy()
BACKENDS: Final = frozenset({"tensorrt_llm", "torch"})


@dataclass(frozen=True, slots=True)
class Measured:
    """What one size of fleet costs, in seconds but for the counts."""

    nodes: int
    endpoints: int
    placed: int
    waiting: int
    fill: float  # plan() alone, all endpoints created before
    recorded: float  # and folding its decisions
    full_pass: float
    repair: float  # a full pass that finds one replica in twenty gone
    repaired: int
    turns: list[float]  # with CHANGES changes each
    scan: float  # a placement by looking at all nodes

    @property
    def change(self) -> float:
        """What one change costs."""
        return statistics.median(self.turns) / CHANGES


class Fleet(World):
    """A fleet whose events can be held back, to be folded all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[str, object]] | None = None

    def record(self, stream: str, events: Sequence[object]) -> None:
        """Fold events, or hold them back; there is no log."""
        if self.held is not None:
            self.held += [(stream, event) for event in events]
            return
        for event in events:
            self.view.apply(stream, event, self.now)


def main() -> None:
    """Measure each size and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--turns", type=int, default=30, help="turns with 100 changes")
    arguments = parser.parse_args()
    report = Report("plan")
    smaller: Measured | None = None
    for nodes in sorted(arguments.nodes):
        found = _measure(nodes, arguments.turns)
        report.add(*_figures(found, smaller, full_size=nodes == max(arguments.nodes)))
        smaller = found
        report.note(
            f"{nodes:,} nodes: {found.endpoints:,} endpoints, {found.placed:,} replicas placed, "
            f"{found.waiting:,} endpoints wait"
        )
    report.note("all is CPU time, which is what it takes where nothing else runs")
    report.note("the scan looks at every node for the one with the fewest GPUs left over")
    report.finish()


def _figures(found: Measured, smaller: Measured | None, *, full_size: bool) -> Iterator[Figure]:
    """Yield the figures of one size beside the next smaller; most targets are for the largest."""
    size = f"{found.nodes:,} nodes"
    yield Figure(
        f"{size}: filling an empty fleet, plan alone",
        found.placed / found.fill,
        "placements/s",
        "scan of all nodes",
        1 / found.scan,
        Target("at least", 5_000, of="value") if full_size else None,
    )
    yield Figure(
        f"{size}: the same, decided and folded too",
        found.placed / (found.fill + found.recorded),
        "placements/s",
    )
    yield Figure(
        f"{size}: a full pass that changes nothing",
        found.full_pass * 1000,
        "ms",
        target=Target("at most", 2_000, of="value") if full_size else None,
    )
    yield Figure(
        f"{size}: a full pass that places {found.repaired:,} replicas",
        found.repair * 1000,
        "ms",
        target=Target("at most", 2_000, of="value") if full_size else None,
    )
    yield Figure(
        f"{size}: a turn with {CHANGES} changes, median",
        statistics.median(found.turns) * 1000,
        "ms",
    )
    yield Figure(
        f"{size}: a turn with {CHANGES} changes, slowest of {len(found.turns)}",
        max(found.turns) * 1000,
        "ms",
        target=Target("at most", 50, of="value") if full_size else None,
    )
    yield Figure(
        f"{size}: a change",
        found.change * 1_000_000,
        "µs",
        f"{smaller.nodes:,} nodes" if smaller else "",
        smaller.change * 1_000_000 if smaller else None,
        # Less than linear.
        Target("at most", found.nodes / smaller.nodes) if smaller else None,
    )


def _measure(nodes: int, turns: int) -> Measured:
    gc.collect()
    chance = random.Random(SEED)
    world = Fleet()
    _join(world, nodes)
    _create(world, nodes * ENDPOINTS_PER_NODE, chance)

    began = time.process_time()
    decisions = plan(world.view, world.view.queues, POLICY, world.now)
    planned = time.process_time()
    world.carry_out(decisions)
    recorded = time.process_time()
    placed = sum(len(one.spots) for one in decisions if isinstance(one, Assign))
    for endpoint in list(world.view.endpoints.values()):
        _serve(world, endpoint)
    waiting = sum(1 for key in world.view.queues for _ in world.view.queue(key))
    world.view.take_changes()

    full_pass = _full_pass(world)
    repaired, repair = _repair(world, chance)
    world.view.take_changes()
    return Measured(
        nodes=nodes,
        endpoints=len(world.view.endpoints),
        placed=placed,
        waiting=waiting,
        fill=planned - began,
        recorded=recorded - planned,
        full_pass=full_pass,
        repair=repair,
        repaired=repaired,
        turns=[_turn(world, chance) for _ in range(turns)],
        scan=_scan(world),
    )


def _join(world: Fleet, nodes: int) -> None:
    for (region, gpu_type), (share, _) in KINDS.items():
        for _ in range(round(nodes * share)):
            world.join(GPUS, region=region, gpu_type=gpu_type, backends=BACKENDS)


def _create(world: Fleet, endpoints: int, chance: random.Random) -> None:
    kinds = chance.choices(list(KINDS), [demand for _, demand in KINDS.values()], k=endpoints)
    sizes = chance.choices(list(SIZES), list(SIZES.values()), k=endpoints)
    for (region, gpu_type), gpus in zip(kinds, sizes, strict=True):
        world.sleep(0.001)
        replicas = chance.choice(REPLICAS) if gpus < LARGE else 1
        world.create(gpus, replicas, region=region, gpu_type=gpu_type)


def _serve(world: Fleet, endpoint: Endpoint) -> None:
    """Let all replicas of an endpoint be ready."""
    for replica_id in _live(endpoint):
        world.report(endpoint.endpoint_id, replica_id, ReplicaState.READY)


def _full_pass(world: Fleet) -> float:
    """Return what planning all queues takes when there is nothing to decide."""
    view = world.view
    times = []
    for _ in range(5):
        began = time.process_time()
        decisions = plan(view, view.queues, POLICY, world.now)
        times.append(time.process_time() - began)
        assert not decisions, "everything was decided before"
    return statistics.median(times)


def _repair(world: Fleet, chance: random.Random) -> tuple[int, float]:
    """Let one replica in twenty fail; return how many are placed anew, and how long that takes."""
    for endpoint in list(world.view.endpoints.values()):
        for replica_id in _live(endpoint):
            if chance.random() < 1 / 20:
                _fail(world, endpoint.endpoint_id, replica_id)
    world.sleep(60)
    world.view.wake_due(world.now)
    began = time.process_time()
    decisions = plan(world.view, world.view.queues, POLICY, world.now)
    took = time.process_time() - began
    world.carry_out(decisions)
    return sum(len(one.spots) for one in decisions if isinstance(one, Assign)), took


def _fail(world: Fleet, endpoint_id: str, replica_id: str) -> None:
    world.report(endpoint_id, replica_id, ReplicaState.FAILED, code="NODE_RESTARTED")


def _turn(world: Fleet, chance: random.Random) -> float:
    """Return what a turn takes: to fold the events of 100 changes, and to plan what follows.

    What is decided is carried out between the turns: recording it is no part of the plan.
    """
    world.sleep(1)
    held: list[tuple[str, object]] = []
    world.held = held
    _change(world, chance)
    world.held = None
    view, now = world.view, world.now
    gc.collect()
    began = time.process_time()
    for stream, event in held:
        view.apply(stream, event, now)
    view.wake_due(now)
    decisions = plan(view, view.take_changes().queues, POLICY, now)
    took = time.process_time() - began
    world.carry_out(decisions)
    for endpoint_id in view.finished:
        view.forget(endpoint_id)
    view.take_changes()
    return took


def _change(world: Fleet, chance: random.Random) -> None:
    """Let 100 things happen, each to another endpoint."""
    each = CHANGES // 5
    _create(world, each, chance)
    endpoints = list(world.view.endpoints.values())
    draining = (one for one in endpoints if not one.enabled and one.holds_gpus)
    for endpoint in islice(draining, each):
        world.finish_draining(endpoint.endpoint_id)
    enabled = [one for one in endpoints if one.enabled and any(_live(one))]
    chosen = iter(chance.sample(enabled, 3 * each))
    for endpoint in islice(chosen, each):
        world.tell(endpoint.endpoint_id, Delete())
    for endpoint in islice(chosen, each):
        _fail(world, endpoint.endpoint_id, next(_live(endpoint)))
    for endpoint in chosen:
        replicas = max(1, endpoint.wanted + chance.choice((-1, 1)))
        world.tell(endpoint.endpoint_id, Update(min_replicas=replicas, max_replicas=replicas))


def _live(endpoint: Endpoint) -> Iterator[str]:
    return (replica.replica_id for replica in endpoint.replicas if replica.live)


def _scan(world: Fleet) -> float:
    """Return what a placement takes whoever looks at all nodes for it, in the least Python."""
    nodes = [
        (node_id, *kind, BACKENDS, GPUS - len(world.view.holders(node_id)))
        for node_id, node in world.view.nodes.items()
        for kind in [(node.inventory.region, node.inventory.gpu_type)]
    ]
    times = []
    for region, gpu_type in [*KINDS] * 5:
        began = time.process_time()
        fitting = [
            (free, node_id)
            for node_id, its_region, its_type, backends, free in nodes
            if its_region == region
            and its_type == gpu_type
            and not backends.isdisjoint(BACKENDS)
            and free >= 1
        ]
        min(fitting, default=None)
        times.append(time.process_time() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
