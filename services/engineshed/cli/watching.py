"""`shed logs` and `shed events`: what happens."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from engineshed.cli.client import Client, Json, find_connection
from engineshed.cli.endpoints import ENDPOINTS, Reference, find
from engineshed.cli.output import Format, Output, out, print_json

ALL_EVENTS: Final = "/v0/events"

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes, until Ctrl-C.")]


def logs(
    endpoint: Reference,
    follow: Follow = False,
    replica: Annotated[str, typer.Option(help="Only of this replica, rep_….")] = "",
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many to begin with.")
    ] = 200,
    output: Output = Format.TEXT,
) -> None:
    """Show what an endpoint's builds, fronts and Triton servers wrote, oldest first."""
    client = Client(find_connection())
    path = f"{ENDPOINTS}/{find(client, endpoint)['endpoint_id']}/logs"
    query: dict[str, Any] = {"limit": lines, **({"replica_id": replica} if replica else {})}
    if follow:
        for item in client.follow(path, **query):
            _print_line(item, output)
        return
    for item in reversed(client.get(path, **query)["data"]):
        _print_line(item, output)


def events(
    endpoint: Annotated[
        str, typer.Argument(help="Its id, routing key, or name; default: all endpoints.")
    ] = "",
    follow: Follow = False,
    output: Output = Format.TEXT,
) -> None:
    """Show what happened: every change of an endpoint, who caused it and when."""
    client = Client(find_connection())
    path = f"{ENDPOINTS}/{find(client, endpoint)['endpoint_id']}/events" if endpoint else ALL_EVENTS
    items = client.follow(path) if follow else _pages(client, path)
    for item in items:
        print_event(item, output, of="" if endpoint else item["stream"])


def _pages(client: Client, path: str) -> Iterator[Json]:
    """Yield all events there are; they are paged by position."""
    position = "0"
    while position:
        page = client.get(path, after_position=position)
        yield from page["data"]
        position = page["next_page_token"]


def print_event(event: Json, output: Format, *, of: str = "") -> None:
    """Print one line of a history; `of` says whose it is, where that is not clear."""
    if output is Format.JSON:
        print_json(event)
        return
    facts = " ".join(
        f"{name}={_short(value)}"
        for name, value in event["data"].items()
        if name not in ("endpointId", "endpoint_id", "why", "effectiveAt", "effective_at")
    )
    out.print(
        f"[dim]{event['time']}[/] {f'{of} ' if of else ''}[bold]{event['name']:<22}[/] "
        f"[cyan]{event['actor']}[/] {escape(facts)}",
        soft_wrap=True,
    )


def _print_line(item: Json, output: Format) -> None:
    if output is Format.JSON:
        print_json(item)
        return
    place = f"{item['replica_id'][-6:]} {item['source']:<6}"
    out.print(f"[dim]{item['time']}[/] [cyan]{place}[/] {escape(item['line'])}", soft_wrap=True)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
