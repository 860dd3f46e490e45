"""The scheduler's tables beside the log, and how events keep them.

What endpoints and nodes are is held in memory; here stands what must be unique, what lists are
made of, and the little that is known but is no event. A change of a table needs a migration.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    update,
)
from sqlalchemy.exc import IntegrityError

from engineshed.api.scheduler.v1 import events_pb2 as pb
from engineshed.eventstore import RecordedEvent, Tables
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
    Column("checkpoint_id", String, nullable=False),
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


def project(connection: Connection, recorded: RecordedEvent) -> None:
    """Bring the tables up to date with one event.

    Raises:
        RoutingKeyTakenError: another endpoint has the routing key.
        GpuTakenError: another replica holds one of the GPUs.

    """
    match recorded.event:
        case pb.EndpointCreated() as created:
            _create(connection, recorded, created)
        case pb.EndpointTerminated() as terminated:
            connection.execute(
                update(endpoints)
                .where(endpoints.c.endpoint_id == terminated.endpoint_id)
                .values(terminated_at=_moment(recorded))
            )
        case pb.ReplicaPlaced() as placed:
            _take(connection, placed)
        case (pb.ReplicaStopped() | pb.ReplicaFailed()) as ended:
            connection.execute(delete(gpus).where(gpus.c.replica_id == ended.replica_id))


def _create(connection: Connection, recorded: RecordedEvent, created: pb.EndpointCreated) -> None:
    row = {
        "position": recorded.position,
        "endpoint_id": created.endpoint_id,
        "org_id": created.org_id,
        "region": created.region,
        "routing_key": created.routing_key,
        "created_at": _moment(recorded),
    }
    try:
        connection.execute(insert(endpoints), row)
    except IntegrityError as error:
        raise RoutingKeyTakenError(
            f"the routing key {created.routing_key} is taken", routing_key=created.routing_key
        ) from error
    hold = {
        "endpoint_id": created.endpoint_id,
        "checkpoint_id": created.checkpoint.checkpoint_id,
    }
    connection.execute(insert(holds), hold)


def _take(connection: Connection, placed: pb.ReplicaPlaced) -> None:
    rows = [
        {"node_id": placed.node_id, "gpu": gpu, "replica_id": placed.replica_id}
        for gpu in placed.gpus
    ]
    try:
        connection.execute(insert(gpus), rows)
    except IntegrityError as error:
        raise GpuTakenError(
            f"a GPU of {list(placed.gpus)} on {placed.node_id} is taken",
            node_id=placed.node_id,
            replica_id=placed.replica_id,
        ) from error


def _moment(recorded: RecordedEvent) -> int:
    return round(recorded.recorded_at.timestamp() * 1_000_000)
