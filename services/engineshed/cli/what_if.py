"""Asking the scheduler what would be, and showing its answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.json_format import MessageToDict
from rich.text import Text

from engineshed.api.scheduler.v1 import scheduling_service_pb2 as pb
from engineshed.api.scheduler.v1.node_service_pb2 import NodeInventory
from engineshed.cli.client import ApiError, Json
from engineshed.cli.naming import find_named
from engineshed.cli.output import Column, Format, err, out, print_json, print_rows
from engineshed.cli.scheduler import Scheduler, connected

_MOVES: Final[list[Column]] = [
    ("ENDPOINT", lambda item: item["endpoint_id"]),
    ("NAME", lambda item: item["endpoint_name"]),
    ("GPUS", lambda item: item["gpu_count"]),
    ("FROM", lambda item: item["from"]),
    ("TO", lambda item: item["to"]),
    ("WHY", lambda item: item["reason"]),
]
_WAITS: Final[list[Column]] = [
    ("ENDPOINT", lambda item: item["endpoint_id"]),
    ("NAME", lambda item: item["endpoint_name"]),
    ("MISSING", lambda item: item["missing_replicas"]),
    ("WAITS NOW", lambda item: "yes" if item["waits_now"] else Text("no", style="yellow")),
    ("FOR", lambda item: item["reason"]),
]
_NODES: Final[list[Column]] = [
    ("NODE", lambda item: item["node_id"]),
    ("HOST", lambda item: item["hostname"]),
    ("GPUS", lambda item: f"{item['gpu_count']} {item['gpu_type']}"),
    ("TAKEN NOW", lambda item: item["taken_before"]),
    ("THEN", lambda item: item["taken_after"]),
]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What is to be otherwise, as somebody calls it."""

    add_nodes: int
    gpu_type: str
    gpus: int
    region: str  # "": the only one that there is
    drain: Sequence[str]
    lose: Sequence[str]
    min_replicas: Mapping[str, int]  # by endpoint
    max_replicas: Mapping[str, int]

    @property
    def changes(self) -> bool:
        """Whether anything is."""
        return bool(
            self.add_nodes or self.drain or self.lose or self.min_replicas or self.max_replicas
        )


async def tell_outcome(what_if: WhatIf, output: Format) -> None:
    """Ask and show the answer.

    Raises:
        ApiError: a change is refused, or the scheduler cannot be asked.
    """
    async with connected() as scheduler:
        with err.status("simulating"):
            changes = await changes_of(what_if, scheduler)
            outcome = await scheduler.simulate(changes)
    told: Json = MessageToDict(
        outcome, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if output is Format.JSON:
        print_json(told)
    else:
        show(told)


async def changes_of(what_if: WhatIf, scheduler: Scheduler) -> list[pb.SimulatedChange]:
    """Return the changes, by the ids of what they name.

    Raises:
        ApiError: something is not there, or several are called so.
    """
    known = _Known(scheduler)
    changes: list[pb.SimulatedChange] = []
    if what_if.add_nodes:
        inventory = NodeInventory(
            region=what_if.region or await known.region(),
            gpu_type=what_if.gpu_type,
            gpu_count=what_if.gpus,
        )
        added = pb.AddNodes(inventory=inventory, count=what_if.add_nodes)
        changes.append(pb.SimulatedChange(add_nodes=added))
    drained = [await known.node_id(node) for node in what_if.drain]
    changes += [pb.SimulatedChange(drain_node_id=node_id) for node_id in drained]
    lost = [await known.node_id(node) for node in what_if.lose]
    changes += [pb.SimulatedChange(lose_node_id=node_id) for node_id in lost]
    for endpoint in dict.fromkeys([*what_if.min_replicas, *what_if.max_replicas]):
        bounds = pb.ScaleEndpoint(
            endpoint_id=await known.endpoint_id(endpoint),
            min_replicas=what_if.min_replicas.get(endpoint),
            max_replicas=what_if.max_replicas.get(endpoint),
        )
        changes.append(pb.SimulatedChange(scale_endpoint=bounds))
    return changes


class _Known:
    """What there is; it is asked for once, and only if something is called by a name."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._nodes: list[Json] | None = None
        self._endpoints: list[Json] | None = None

    async def node_id(self, reference: str) -> str:
        """Return the id of a node."""
        if reference.startswith("node_"):
            return reference
        nodes = await self._all_nodes()
        return str(find_named(nodes, reference, "node", "hostname", listed_by="shed nodes")["id"])

    async def endpoint_id(self, reference: str) -> str:
        """Return the id of an endpoint."""
        if reference.startswith("ep_"):
            return reference
        if self._endpoints is None:
            self._endpoints = [
                {"id": one.endpoint_id, "name": one.name, "routing_key": one.routing_key}
                for one in await self._scheduler.endpoints()
            ]
        found = find_named(self._endpoints, reference, "endpoint", "name", "routing_key")
        return str(found["id"])

    async def region(self) -> str:
        """Return the only region that there is."""
        regions = sorted({node["region"] for node in await self._all_nodes()})
        if len(regions) != 1:
            there = f"there are {', '.join(regions)}" if regions else "there is none yet"
            raise ApiError(f"in which region would they stand? Say so with --region; {there}")
        return str(regions[0])

    async def _all_nodes(self) -> list[Json]:
        if self._nodes is None:
            self._nodes = [
                {
                    "id": node.node_id,
                    "hostname": node.inventory.hostname,
                    "region": node.inventory.region,
                }
                for node in await self._scheduler.nodes()
            ]
        return self._nodes


def show(told: Json) -> None:
    """Print what would become of a fleet: moves, waits, and the nodes that change."""
    names = _names(told["nodes"])
    moves = [
        {
            **move,
            "from": names.get(move["from_node_id"], move["from_node_id"]),
            "to": names.get(move["to_node_id"], move["to_node_id"]),
        }
        for move in told["moves"]
    ]
    changed = [node for node in told["nodes"] if node["taken_before"] != node["taken_after"]]
    tables = (
        (_counted(moves, "replica moves", "replicas move"), moves, _MOVES),
        (_counted(told["waits"], "endpoint waits", "endpoints wait"), told["waits"], _WAITS),
        (_counted(changed, "node changes", "nodes change"), changed, _NODES),
    )
    for number, (title, rows, columns) in enumerate(tables):
        if number:
            out.print()
        out.print(Text(title, style="bold"))
        if rows:
            print_rows(rows, columns, Format.TEXT)
    if not told["settled"]:
        err.print("This did not come to an end: there would be more.")


def _names(nodes: Sequence[Json]) -> dict[str, str]:
    """Return what to call nodes, by id: the host's name, if only one has it."""
    hosts = Counter(node["hostname"] for node in nodes)
    return {
        node["node_id"]: node["hostname"]
        for node in nodes
        if node["hostname"] and hosts[node["hostname"]] == 1
    }


def _counted(rows: Sequence[object], one: str, several: str) -> str:
    return f"1 {one}" if len(rows) == 1 else f"{len(rows) or 'no'} {several}"
