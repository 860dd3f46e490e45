"""What engines were seen to take of their GPUs: written with the facts, read for estimates."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, and_, insert, select, update

from engineshed.eventstore import EventStore
from engineshed.scheduler.domain.backends import PREFERRED
from engineshed.scheduler.domain.measurement import Combination, Measurement
from engineshed.scheduler.tables import measurements


def note(connection: Connection, measured: Sequence[Measurement]) -> None:
    """Note what was measured; of a combination the last counts."""
    for one in measured:
        key = {**asdict(one.combination), "engine_backend": one.engine_backend}
        those = and_(*(measurements.c[name] == value for name, value in key.items()))
        known = update(measurements).where(those).values(memory_bytes=one.memory_bytes)
        if connection.execute(known).rowcount == 0:
            connection.execute(insert(measurements), {**key, "memory_bytes": one.memory_bytes})


async def find(store: EventStore, combination: Combination, backends: frozenset[str]) -> int:
    """Return what an engine of one of these back ends was seen to take; 0: nobody measured.

    Raises:
        StoreUnavailableError: the database does not answer.

    """
    columns = measurements.c
    those = and_(*(columns[name] == value for name, value in asdict(combination).items()))
    query = select(columns.engine_backend, columns.memory_bytes).where(those)
    rows = await store.query(lambda connection: connection.execute(query).all())
    found: dict[str, int] = {backend: memory for backend, memory in rows if backend in backends}
    return next((found[backend] for backend in PREFERRED if backend in found), 0)
