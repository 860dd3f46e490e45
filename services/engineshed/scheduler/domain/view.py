"""View: the scheduler's whole picture, endpoints and nodes, with the indexes that decisions need.

`apply` folds recorded events into it and keeps the indexes; nothing else changes it but signals
that are no events (`note_report`). It says in `changes` what has become different.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, cast

from engineshed.scheduler.domain import evolve as endpoints
from engineshed.scheduler.domain import node as nodes
from engineshed.scheduler.domain.admission import Offer
from engineshed.scheduler.domain.endpoint import Endpoint, EndpointEvent, EndpointState
from engineshed.scheduler.domain.node import Node, NodeEvent, NodeState
from engineshed.scheduler.domain.pool import Kind, Pool
from engineshed.scheduler.domain.queue import Crowd, Queue, crowd_of, place_of
from engineshed.scheduler.domain.replica import Replica, ReplicaState


class QueueKey(NamedTuple):
    """Endpoints that want GPUs of one type in one region wait in one queue."""

    region: str
    gpu_type: str


class Holder(NamedTuple):
    """Who has a GPU."""

    endpoint_id: str
    replica_id: str


@dataclass(slots=True)
class Changes:
    """What has changed since somebody took note."""

    queues: set[QueueKey] = field(default_factory=set)  # whose endpoints or room changed
    endpoints: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)  # which, or what is on which, changed

    def __bool__(self) -> bool:
        return bool(self.queues or self.endpoints or self.nodes)


class View:
    """All endpoints and nodes as they are now."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.nodes: dict[str, Node] = {}  # oldest first
        self.changes = Changes()
        self.told: set[str] = set()  # nodes with news in `reports`, since somebody took note
        self._pools: dict[Kind, Pool] = {}
        self._kind_of: dict[str, Kind] = {}  # of nodes that are in a pool
        self._offers: Counter[tuple[Kind, int, int]] = Counter()  # nodes by kind, GPUs, memory
        self._holders: dict[str, dict[int, Holder]] = {}  # by node and GPU
        self._replicas_on: dict[str, dict[str, str]] = {}  # node: replica: endpoint
        self._draining: set[str] = set()  # nodes
        self._left: set[str] = set()  # nodes
        self._cordoned: dict[str, QueueKey] = {}  # heard nodes that take no replicas
        self._releasing: Counter[str] = Counter()  # GPUs of draining replicas by node
        self._foreign: dict[str, frozenset[int]] = {}  # by node, of those that have reported
        self._queues: dict[QueueKey, Queue] = {}
        self._retries: dict[str, datetime] = {}
        self._awaiting: dict[str, set[str]] = {}  # checkpoint: endpoints
        self._finished: set[str] = set()
        self._stopped: dict[str, datetime] = {}
        self._stretched: set[str] = set()

    @classmethod
    def of(
        cls,
        endpoints: Mapping[str, Endpoint],
        nodes: Mapping[str, Node],
        reports: Mapping[str, frozenset[int]],
    ) -> "View":
        """Return a view of states; pauses end once more, `stopped` begins with the last change."""
        view = cls()
        for node in nodes.values():
            view._index_node(None, node)
        for endpoint in endpoints.values():
            view.endpoints[endpoint.endpoint_id] = endpoint
            view._index_endpoint(None, endpoint)
        for node_id, foreign in reports.items():
            view.note_report(node_id, foreign)
        return view

    def apply(self, stream: str, event: object, at: datetime) -> None:
        """Fold one event of `stream`, recorded at `at`."""
        aggregate, _, object_id = stream.partition("/")
        if aggregate == "endpoint":
            old = self.endpoints.get(object_id)
            new = endpoints.evolve(old, cast("EndpointEvent", event), at)
            self.endpoints[object_id] = new
            self._index_endpoint(old, new)
        elif aggregate == "node":
            node = self.nodes.get(object_id)
            self._index_node(node, nodes.evolve(node, cast("NodeEvent", event), at))

    def take_changes(self) -> Changes:
        """Return what has changed since the last call."""
        changes, self.changes = self.changes, Changes()
        return changes

    # What runs where.

    def holders(self, node_id: str) -> dict[int, Holder]:
        """Return who holds which GPU of a node."""
        return dict(self._holders.get(node_id, {}))

    def replicas_on(self, node_id: str) -> Iterator[tuple[Endpoint, Replica]]:
        """Yield the replicas whose GPUs are taken on a node."""
        for replica_id, endpoint_id in self._replicas_on.get(node_id, {}).items():
            endpoint = self.endpoints[endpoint_id]
            replica = endpoint.replica(replica_id)
            assert replica is not None, "the index names replicas that are there"
            yield endpoint, replica

    def endpoint_on(self, node_id: str, replica_id: str) -> str | None:
        """Return the endpoint of a replica whose GPUs are taken on a node; None: not there."""
        return self._replicas_on.get(node_id, {}).get(replica_id)

    def to_evacuate(self) -> Iterator[tuple[Endpoint, Replica]]:
        """Yield the replicas on draining nodes that nobody has said are to be replaced."""
        for node_id in sorted(self._draining):
            for endpoint, replica in self.replicas_on(node_id):
                if replica.live and not replica.leaving:
                    yield endpoint, replica

    @property
    def left_nodes(self) -> Collection[str]:
        """The nodes that were taken out."""
        return frozenset(self._left)

    def note_report(self, node_id: str, foreign: Collection[int] = ()) -> None:
        """Note that a node's agent has said what it runs; only from then on is it given more.

        Args:
            node_id: the node.
            foreign: GPUs in use by what no event placed there, or by what should be gone.

        """
        if self._foreign.get(node_id) != frozenset(foreign):
            self._foreign[node_id] = frozenset(foreign)
            self.told.add(node_id)
            self._index_room(node_id)

    @property
    def reports(self) -> Mapping[str, frozenset[int]]:
        """The heard nodes whose agents have said what they run, with their foreign GPUs."""
        return MappingProxyType(self._foreign)

    def unreported(self) -> Iterator[str]:
        """Yield the heard nodes whose agents have not yet said what they run."""
        return (
            node_id
            for node_id, node in self.nodes.items()
            if node.heard and node_id not in self._foreign
        )

    # Room.

    def pools(self, queue: QueueKey) -> list[tuple[Kind, Pool]]:
        """Return the heard nodes that could take replicas of a queue, by kind."""
        kinds = sorted(kind for kind in self._pools if (kind.region, kind.gpu_type) == queue)
        return [(kind, self._pools[kind]) for kind in kinds]

    def cordoned(self, queue: QueueKey) -> int:
        """Return how many heard nodes could serve a queue if they were not cordoned or drained."""
        return sum(key == queue for key in self._cordoned.values())

    @property
    def releasing_nodes(self) -> Set[str]:
        """The nodes on which replicas drain."""
        return self._releasing.keys()

    def releasing(self, node_id: str) -> int:
        """Return how many GPUs draining replicas will release on a node."""
        return self._releasing.get(node_id, 0)

    def offers(self) -> Sequence[Offer]:
        """Return what all nodes have that have not left, heard or not, cordoned or not."""
        return [
            Offer(kind.region, kind.gpu_type, frozenset(kind.backends), gpus, count, memory)
            for (kind, gpus, memory), count in self._offers.items()
        ]

    # Queues.

    @property
    def queues(self) -> Collection[QueueKey]:
        """The queues in which somebody waits."""
        return self._queues.keys()

    def queue(
        self, key: QueueKey, hopeless: Callable[[Crowd], bool] = lambda _: False
    ) -> Iterator[Endpoint]:
        """Yield the endpoints that miss replicas, in order of arrival.

        Of a crowd none follows once it is `hopeless`.
        """
        places = self._queues.get(key, Queue()).in_order(hopeless)
        return (self.endpoints[endpoint_id] for endpoint_id in places)

    def queue_position(self, endpoint: Endpoint) -> int:
        """Return the place of an endpoint in its queue, from 1; 0 when it misses nothing."""
        return self._queues.get(queue_key(endpoint), Queue()).position(place_of(endpoint))

    def next_retry(self) -> datetime | None:
        """Return when the first of the endpoints that pause may try again."""
        return min(self._retries.values(), default=None)

    def wake_due(self, now: datetime) -> None:
        """Let endpoints whose pause is over be planned again."""
        for endpoint_id in [one for one, at in self._retries.items() if at <= now]:
            del self._retries[endpoint_id]
            self.changes.queues.add(queue_key(self.endpoints[endpoint_id]))

    def opportunistic(self, key: QueueKey) -> Iterator[tuple[Endpoint, Replica]]:
        """Yield the replicas on nodes of a queue that reserved ones of other endpoints outrank."""
        for endpoint_id in sorted(self._stretched):
            endpoint = self.endpoints[endpoint_id]
            if endpoint.region != key.region:
                continue
            for replica in endpoint.opportunistic:
                if replica.deployment.gpu_type == key.gpu_type:
                    yield endpoint, replica

    # Endpoints at their beginning and their end.

    @property
    def awaited_checkpoints(self) -> Collection[str]:
        """The checkpoints that endpoints wait for."""
        return self._awaiting.keys()

    def awaiting(self, checkpoint_id: str) -> Collection[str]:
        """Return the endpoints that wait for a checkpoint."""
        return frozenset(self._awaiting.get(checkpoint_id, ()))

    @property
    def finished(self) -> Collection[str]:
        """The endpoints that are terminated and whose processes are gone."""
        return frozenset(self._finished)

    @property
    def stopped(self) -> Mapping[str, datetime]:
        """The endpoints that are stopped, and since when; those first that were stopped first."""
        return MappingProxyType(self._stopped)

    def forget(self, endpoint_id: str) -> None:
        """Drop a finished endpoint; its history stays in the store."""
        self._finished.remove(endpoint_id)
        del self.endpoints[endpoint_id]

    # Indexes.

    def _index_endpoint(self, old: Endpoint | None, new: Endpoint) -> None:
        self.changes.endpoints.add(new.endpoint_id)
        before = {replica.replica_id: replica for replica in old.replicas} if old else {}
        for replica in new.replicas:
            was = before.get(replica.replica_id)
            if was is not replica:
                self._index_replica(new, replica)
                self._index_releasing(was, replica)
        self._index_waiting(old, new)
        if old and old.checkpoint.checkpoint_id != new.checkpoint.checkpoint_id:
            self._note(self._awaiting, old, waits=False)
        self._note(self._awaiting, new, waits=not new.checkpoint.digest and not new.ended)
        if new.status.state is not EndpointState.STOPPED:
            self._stopped.pop(new.endpoint_id, None)
        else:  # in order: what is recorded later comes later
            self._stopped.setdefault(new.endpoint_id, new.updated_at)
        if new.wanted > new.scaling.min_replicas:
            self._stretched.add(new.endpoint_id)
        else:
            self._stretched.discard(new.endpoint_id)
        if new.status.state is EndpointState.TERMINATED and not new.holds_gpus:
            self._finished.add(new.endpoint_id)

    def _index_replica(self, endpoint: Endpoint, replica: Replica) -> None:
        here = self._replicas_on.setdefault(replica.node_id, {})
        holders = self._holders.setdefault(replica.node_id, {})
        holder = Holder(endpoint.endpoint_id, replica.replica_id)
        if replica.ended:
            here.pop(replica.replica_id, None)
            for gpu in replica.gpus:
                if holders.get(gpu) == holder:
                    del holders[gpu]
        elif replica.replica_id not in here:
            here[replica.replica_id] = endpoint.endpoint_id
            holders.update(dict.fromkeys(replica.gpus, holder))
        else:  # as many GPUs as before, but the node has to hear of it
            self.changes.nodes.add(replica.node_id)
            return
        self._index_room(replica.node_id)

    def _index_releasing(self, old: Replica | None, new: Replica) -> None:
        was = old is not None and old.state is ReplicaState.DRAINING
        now = new.state is ReplicaState.DRAINING
        if was == now:
            return
        self._releasing[new.node_id] += (now - was) * len(new.gpus)
        if not self._releasing[new.node_id]:
            del self._releasing[new.node_id]
        if kind := self._kind_of.get(new.node_id):  # another node may fit the head soonest
            self.changes.queues.add(QueueKey(kind.region, kind.gpu_type))

    def _index_waiting(self, old: Endpoint | None, new: Endpoint) -> None:
        was = (queue_key(old), crowd_of(old), place_of(old)) if old and old.missing else None
        now = (queue_key(new), crowd_of(new), place_of(new)) if new.missing else None
        if was and was != now:
            key, crowd, place = was
            self._queues[key].discard(crowd, place)
            if not self._queues[key]:
                del self._queues[key]
        if now and was != now:
            key, crowd, place = now
            self._queues.setdefault(key, Queue()).put(crowd, place)
        self.changes.queues.update(key for key, *_ in filter(None, (was, now)))
        if new.missing and new.retry_at:
            self._retries[new.endpoint_id] = new.retry_at
        else:
            self._retries.pop(new.endpoint_id, None)

    def _index_node(self, old: Node | None, new: Node) -> None:
        self.nodes[new.node_id] = new
        self._offer(old, -1)
        self._offer(new, +1)
        for index, duty in ((self._draining, NodeState.DRAINING), (self._left, NodeState.LEFT)):
            index.discard(new.node_id)
            if new.duty is duty:
                index.add(new.node_id)
        self._index_room(new.node_id)

    def _offer(self, node: Node | None, count: int) -> None:
        """Add a node to what the fleet has, or take it off."""
        if node is None or node.duty is NodeState.LEFT:
            return
        offered = (kind_of(node), node.inventory.gpu_count, node.inventory.estimated_memory_bytes)
        self._offers[offered] += count
        if not self._offers[offered]:
            del self._offers[offered]

    def _index_room(self, node_id: str) -> None:
        """Bring the pools up to date with one node."""
        self.changes.nodes.add(node_id)
        node = self.nodes[node_id]
        old_kind = self._kind_of.pop(node_id, None)
        if not node.heard:
            self._foreign.pop(node_id, None)  # what it said no longer counts
        self._index_cordoned(node)
        kind = kind_of(node) if node.takes_replicas and node_id in self._foreign else None
        if old_kind is not None:
            self.changes.queues.add(QueueKey(old_kind.region, old_kind.gpu_type))
            if old_kind != kind:
                self._pools[old_kind].discard(node_id)
                if not len(self._pools[old_kind]):
                    del self._pools[old_kind]
        if kind is not None:
            self.changes.queues.add(QueueKey(kind.region, kind.gpu_type))
            self._kind_of[node_id] = kind
            taken = self._holders.get(node_id, {}).keys() | self._foreign[node_id]
            free = tuple(gpu for gpu in range(node.inventory.gpu_count) if gpu not in taken)
            self._pools.setdefault(kind, Pool()).put(node_id, free)

    def _index_cordoned(self, node: Node) -> None:
        was = self._cordoned.pop(node.node_id, None)
        if was is not None:
            self.changes.queues.add(was)  # what is waited for may be another
        if node.node_id in self._foreign and not node.takes_replicas:
            key = QueueKey(node.inventory.region, node.inventory.gpu_type)
            self._cordoned[node.node_id] = key
            self.changes.queues.add(key)

    @staticmethod
    def _note(index: dict[str, set[str]], endpoint: Endpoint, *, waits: bool) -> None:
        checkpoint_id = endpoint.checkpoint.checkpoint_id
        if waits:
            index.setdefault(checkpoint_id, set()).add(endpoint.endpoint_id)
        elif checkpoint_id in index:
            index[checkpoint_id].discard(endpoint.endpoint_id)
            if not index[checkpoint_id]:
                del index[checkpoint_id]


def queue_key(endpoint: Endpoint) -> QueueKey:
    """Return the queue that an endpoint waits in."""
    return QueueKey(endpoint.region, endpoint.placing.gpu_type)


def kind_of(node: Node) -> Kind:
    """Return what a node can be exchanged for."""
    inventory = node.inventory
    return Kind(inventory.region, inventory.gpu_type, tuple(sorted(inventory.backends)))
