"""Waiting for checkpoints, endpoints and nodes, with a bar for each stage as it happens."""

import time
from http import HTTPStatus
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from engineshed.cli.client import ApiError, Client, Json

POLL_SECONDS: Final = 0.15
# How long the platform may be away while something is waited for: a part that is restarted, say.
PATIENCE_SECONDS: Final = 30.0
_AWAY: Final = (0, HTTPStatus.SERVICE_UNAVAILABLE)  # 0: it could not be reached at all

_STAGES: Final = {
    "placed": "placed on a node",
    "fetching": "fetching the checkpoint",
    "building": "building the engine",
    "loading": "loading it into Triton",
}
_ENDED: Final = ("stopped", "failed", "lost")


def wait_for_checkpoint(client: Client, checkpoint_id: str, console: Console) -> Json:
    """Return the checkpoint once it is registered.

    Raises:
        ApiError: registering failed.
    """
    with _bars(console) as bars:
        task = bars.add_task("hashing and copying the checkpoint", total=1)
        while True:
            checkpoint = _get(client, f"/v0/checkpoints/{checkpoint_id}")
            progress = checkpoint["progress"]
            bars.update(
                task,
                completed=progress["done_bytes"],
                total=max(progress["total_bytes"], 1),
            )
            if checkpoint["status"] == "failed":
                raise ApiError(f"registering failed: {checkpoint['status_reason']}")
            if checkpoint["status"] != "registering":
                bars.update(task, total=1, completed=1)
                return checkpoint
            time.sleep(POLL_SECONDS)


def wait_for_endpoint(client: Client, endpoint_id: str, wanted: str, console: Console) -> Json:
    """Return the endpoint once its status is `wanted`.

    One that is to run, but has no replica while nobody uses it, is as wanted when it is idle.

    Raises:
        ApiError: it failed, or ended otherwise.
    """
    with _bars(console) as bars:
        stages = _Stages(bars)
        while True:
            endpoint = _get(client, f"/v0/dedicated_endpoints/{endpoint_id}")
            stages.show(endpoint)
            status = endpoint["status"]
            if status == wanted or (status, wanted) == ("idle", "running"):
                stages.finish()
                return endpoint
            if status in ("failed", "terminated") or (status, wanted) == ("stopped", "running"):
                raise ApiError(f"the endpoint is {status}: {endpoint['status_reason']}")
            time.sleep(POLL_SECONDS)


def wait_for_rollout(client: Client, endpoint_id: str, console: Console) -> Json:
    """Return the endpoint once all of its replicas run what they should.

    Raises:
        ApiError: the rollout failed, or the endpoint did.
    """
    with _bars(console) as bars:
        stages = _Stages(bars)
        while True:
            endpoint = _get(client, f"/v0/dedicated_endpoints/{endpoint_id}")
            rollout = endpoint["rollout"]
            stages.show(endpoint)
            if endpoint["status"] in ("failed", "terminated"):
                raise ApiError(f"the endpoint is {endpoint['status']}: {endpoint['status_reason']}")
            if rollout is None and endpoint["status"] in ("running", "idle", "stopped"):
                stages.finish()
                return endpoint
            if rollout is not None and rollout["status"] == "failed":
                raise ApiError(
                    f"the rollout failed: {rollout['reason']}\n"
                    "what served before goes on serving; go back with: shed endpoints rollback"
                )
            time.sleep(POLL_SECONDS)


def wait_for_drain(client: Client, node_id: str, console: Console) -> Json:
    """Return the node once nobody holds any of its GPUs.

    Raises:
        ApiError: it is not being drained any more.
    """
    with _bars(console) as bars:
        task = bars.add_task("", total=None)
        most = 0
        while True:
            node = _get(client, f"/v0/nodes/{node_id}")
            left = len({gpu["replica_id"] for gpu in node["gpus"]} - {None})
            most = max(most, left)
            bars.update(
                task,
                description=f"{node['status']}: {left} of {most} replicas are still there",
                total=max(most, 1),
                completed=most - left if most else 1,
            )
            if not left:
                return node
            if node["status"] not in ("draining", "lost"):
                raise ApiError(f"the node is {node['status']}; it is not being drained any more")
            time.sleep(POLL_SECONDS)


def _get(client: Client, path: str) -> Json:
    """Return the object at `path`, even if the platform is away for a moment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return client.get(path)
        except ApiError as error:
            if error.status not in _AWAY or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


class _Stages:
    """One bar for each stage of each replica, in the order in which they come."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._waiting: TaskID | None = None

    def show(self, endpoint: Json) -> None:
        """Bring the bars up to date."""
        live = [item for item in endpoint["replicas"] if item["status"] not in _ENDED]
        if not live:
            words = filter(None, (endpoint["status"], endpoint["status_reason"]))
            if self._waiting is None:
                self._waiting = self._bars.add_task("", total=None)
            self._bars.update(self._waiting, description=": ".join(words))
        elif self._waiting is not None:
            self._bars.update(self._waiting, total=1, completed=1)
            self._waiting = None
        for replica in live:
            self._show_replica(replica)

    def finish(self) -> None:
        """Fill all bars."""
        waiting = [] if self._waiting is None else [self._waiting]
        for task in [*self._tasks.values(), *waiting]:
            self._bars.update(task, total=1, completed=1)

    def _show_replica(self, replica: Json) -> None:
        stage = replica["status"]
        for (replica_id, earlier), task in self._tasks.items():
            if replica_id == replica["replica_id"] and earlier != stage:
                self._bars.update(task, completed=1)
        if stage not in _STAGES:
            return
        key = (replica["replica_id"], stage)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(_STAGES[stage], total=1)
        self._bars.update(self._tasks[key], completed=replica["progress"])


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
    )
