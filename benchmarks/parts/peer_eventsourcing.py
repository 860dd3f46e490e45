"""The `eventsourcing` library as its users use it: an aggregate's event, saved by an application.

`python peer_eventsourcing.py sqlite FILE | postgresql URL  THREADS SECONDS` prints how many events
were saved in a second, by so many threads with an aggregate each, one event a time. It runs in the
peers' environment and knows nothing of ours.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


class Endpoint(Aggregate):
    """Says of itself what one of our events says."""

    @event("Begun")
    def __init__(self) -> None:
        self.replica_id = self.engine_digest = self.url = ""

    @event("ReplicaReady")
    def ready(self, endpoint_id: str, replica_id: str, engine_digest: str, url: str) -> None:
        self.endpoint_id = endpoint_id
        self.replica_id = replica_id
        self.engine_digest = engine_digest
        self.url = url


def main() -> None:
    kind, where, threads, seconds = sys.argv[1:]
    os.environ.update(_environment(kind, where))
    application = Application()

    def save(until: float) -> int:
        endpoint, count = Endpoint(), 0
        while time.perf_counter() < until:
            count += 1
            endpoint.ready(
                f"ep_{count:026}",
                f"rep_{count:026}",
                f"sha256:{count:064}",
                "http://127.0.0.1:40000",
            )
            application.save(endpoint)
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(int(threads)) as pool:
        total = sum(pool.map(save, [began + float(seconds)] * int(threads)))
    print(total / (time.perf_counter() - began))


def _environment(kind: str, where: str) -> dict[str, str]:
    if kind == "sqlite":
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": where}
    url = urlsplit(where)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": url.path[1:],
        "POSTGRES_HOST": parse_qs(url.query)["host"][0],
        "POSTGRES_PORT": "5432",
        "POSTGRES_USER": url.username or "",
        "POSTGRES_PASSWORD": "-",
        "POSTGRES_POOL_SIZE": "8",
    }


if __name__ == "__main__":
    main()
