"""The scheduler's tables beside the log, and how events keep them.

What endpoints and nodes are is held in memory; here stands what must be unique, what lists are
made of, and the little that is known but is no event. A change of a table needs a migration.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, cast

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    update,
)
from sqlalchemy.exc import IntegrityError

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.eventstore import RecordedEvent, Tables, insert_rows
from engineshed.scheduler.domain.errors import GpuTakenError, RoutingKeyTakenError

METADATA: Final = MetaData()

TABLES: Final = Tables("scheduler", METADATA, Path(__file__).parent / "migrations")

# SQLite's row id, and so its cheapest key, is a column of exactly this type.
_Position: Final = BigInteger().with_variant(Integer(), "sqlite")

endpoints: Final = Table(
    "endpoints",
    METADATA,
    Column("position", _Position, primary_key=True, autoincrement=False),  # of EndpointCreated
    Column("endpoint_id", String, nullable=False, unique=True),
    Column("org_id", String, nullable=False),
    Column("region", String, nullable=False),
    Column("routing_key", String, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),  # microseconds since 1970
    Column("terminated_at", BigInteger),
    Index("endpoints_of_organization", "org_id", "position"),
    Index("endpoints_terminated", "terminated_at"),
)

# Behind the domain: no GPU is ever given to two replicas.
gpus: Final = Table(
    "gpus",
    METADATA,
    Column("node_id", String, primary_key=True),
    Column("gpu", Integer, primary_key=True),
    Column("replica_id", String, nullable=False, index=True),
    sqlite_with_rowid=False,
)

# The holds at the catalog that have not been given back yet.
holds: Final = Table(
    "holds",
    METADATA,
    Column("endpoint_id", String, primary_key=True),
    Column("checkpoint_id", String, primary_key=True),
    sqlite_with_rowid=False,
)

# When nodes were last heard, a few seconds behind: for nodes that fall silent while no scheduler
# runs.
heard: Final = Table(
    "heard",
    METADATA,
    Column("node_id", String, primary_key=True),
    Column("heard_at", BigInteger, nullable=False),  # microseconds since 1970
    sqlite_with_rowid=False,
)

# What plans were made from and what they decided, so that they can be made again.
plans: Final = Table(
    "plans",
    METADATA,
    Column("term", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # in its term, gapless
    Column("planned_at", BigInteger, nullable=False),  # microseconds since 1970
    Column("whole", Boolean, nullable=False),  # whether it needs none before it
    Column("data", LargeBinary, nullable=False),  # a PlanTurn
    Index("plans_whole", "whole", "planned_at"),
    sqlite_with_rowid=False,
)


# What engines were last seen to take of each GPU, by what decides it: `domain/measurement.py`.
measurements: Final = Table(
    "measurements",
    METADATA,
    Column("org_id", String, primary_key=True),
    Column("checkpoint_digest", String, primary_key=True),
    Column("gpu_type", String, primary_key=True),
    Column("gpu_count", Integer, primary_key=True, autoincrement=False),
    Column("precision", String, primary_key=True),
    Column("quantization", String, primary_key=True),
    Column("max_context", BigInteger, primary_key=True, autoincrement=False),
    Column("max_batch_size", BigInteger, primary_key=True, autoincrement=False),
    Column("max_batch_tokens", BigInteger, primary_key=True, autoincrement=False),
    Column("engine_backend", String, primary_key=True),
    Column("memory_bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)


def project(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Bring the tables up to date with events that are recorded together.

    Raises:
        RoutingKeyTakenError: another endpoint has the routing key.
        GpuTakenError: another replica holds one of the GPUs.

    """
    for kind, several in groupby(events, key=lambda recorded: type(recorded.event)):
        if (write := _WRITERS.get(kind)) is not None:
            write(connection, list(several))


def _create(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    created = [(recorded, cast(pb.EndpointCreated, recorded.event)) for recorded in events]
    rows = [
        (
            recorded.position,
            event.endpoint_id,
            event.org_id,
            event.region,
            event.routing_key,
            _moment(recorded),
            None,
        )
        for recorded, event in created
    ]
    try:
        insert_rows(connection, endpoints, rows)
    except IntegrityError as error:
        # The one who caused it is told when it is tried alone.
        routing_key = created[0][1].routing_key
        raise RoutingKeyTakenError(
            f"the routing key {routing_key} is taken", routing_key=routing_key
        ) from error
    held = [(event.endpoint_id, event.checkpoint.checkpoint_id) for _, event in created]
    insert_rows(connection, holds, held)


def _terminate(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    ended = update(endpoints).where(endpoints.c.endpoint_id == bindparam("ended"))
    rows = [
        {
            "ended": cast(pb.EndpointTerminated, recorded.event).endpoint_id,
            "terminated_at": _moment(recorded),
        }
        for recorded in events
    ]
    connection.execute(ended, rows)


def _take(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    placed = [cast(pb.ReplicaPlaced, recorded.event) for recorded in events]
    rows = [(event.node_id, gpu, event.replica_id) for event in placed for gpu in event.gpus]
    try:
        insert_rows(connection, gpus, rows)
    except IntegrityError as error:
        first = placed[0]
        raise GpuTakenError(
            f"a GPU of {list(first.gpus)} on {first.node_id} is taken",
            node_id=first.node_id,
            replica_id=first.replica_id,
        ) from error


def _give_back(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    ended = [
        cast(pb.ReplicaStopped | pb.ReplicaFailed, recorded.event).replica_id for recorded in events
    ]
    connection.execute(delete(gpus).where(gpus.c.replica_id.in_(ended)))


_WRITERS: Final[Mapping[type[Message], Callable[[Connection, Sequence[RecordedEvent]], None]]] = {
    pb.EndpointCreated: _create,
    pb.EndpointTerminated: _terminate,
    pb.ReplicaPlaced: _take,
    pb.ReplicaStopped: _give_back,
    pb.ReplicaFailed: _give_back,
}


def _moment(recorded: RecordedEvent) -> int:
    return round(recorded.recorded_at.timestamp() * 1_000_000)
