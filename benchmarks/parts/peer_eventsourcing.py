"""The `eventsourcing` library's own recorder, with so many threads, one event a time.

`python peer_eventsourcing.py sqlite FILE | postgresql URL  THREADS SECONDS` prints how many events
it recorded in a second. It runs in the peers' environment and knows nothing of ours.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from eventsourcing.persistence import ApplicationRecorder, StoredEvent

_STATE = b"x" * 240  # about what one of our events takes


def main() -> None:
    kind, where, threads, seconds = sys.argv[1:]
    recorder = _sqlite(where) if kind == "sqlite" else _postgresql(where)
    recorder.create_table()

    def record(until: float) -> int:
        count = 0
        originator = uuid4()
        while time.perf_counter() < until:
            count += 1
            recorder.insert_events([StoredEvent(originator, count, "bench:Event", _STATE)])
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(int(threads)) as pool:
        total = sum(pool.map(record, [began + float(seconds)] * int(threads)))
    print(total / (time.perf_counter() - began))


def _sqlite(file: str) -> ApplicationRecorder:
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    return SQLiteApplicationRecorder(SQLiteDatastore(file))


def _postgresql(url: str) -> ApplicationRecorder:
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(url)
    datastore = PostgresDatastore(
        given["dbname"], given["host"], "5432", given["user"], "", pool_size=8, max_overflow=8
    )
    return PostgresApplicationRecorder(datastore)


if __name__ == "__main__":
    main()
