"""`shed logs`, `shed events` and `shed metrics`: what happens."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.markup import escape

from engineshed.cli.client import Client, Json, find_connection
from engineshed.cli.durations import duration
from engineshed.cli.endpoints import ENDPOINTS, Reference, find
from engineshed.cli.output import Format, Output, out, print_json

ALL_EVENTS: Final = "/v0/events"

_LINES: Final = 200
_PAGE: Final = 10_000  # lines


class Source(StrEnum):
    """Whose log it is."""

    AGENT = "agent"
    BUILD = "build"
    FRONT = "front"
    TRITON = "triton"


Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes, until Ctrl-C.")]


def logs(
    endpoint: Reference,
    follow: Follow = False,
    replica: Annotated[str, typer.Option(help="Only of this replica, rep_….")] = "",
    source: Annotated[Source | None, typer.Option(help="Only from there.")] = None,
    since: Annotated[
        str, typer.Option(help="Only what was logged since: 10m, 2h, 3d ago, or a time.")
    ] = "",
    until: Annotated[str, typer.Option(help="Only what was logged before, as with --since.")] = "",
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines", "-n", min=1, help=f"The last so many; {_LINES}, or all since --since."
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Show what an endpoint's replicas wrote: builds, fronts, Triton servers; oldest first."""
    if follow and until:
        raise typer.BadParameter("what comes has no end; leave out --until or --follow")
    now = datetime.now(UTC)
    given = {
        "replica_id": replica,
        "source": source or "",
        "since": moment(since, now),
        "until": moment(until, now),
    }
    query = {name: value for name, value in given.items() if value}
    client = Client(find_connection())
    path = f"{ENDPOINTS}/{find(client, endpoint)['endpoint_id']}/logs"
    if follow:
        most = _PAGE if since else _LINES
        for item in client.follow(path, limit=min(lines or most, _PAGE), **query):
            _print_line(item, output)
        return
    for item in reversed(_last_lines(client, path, lines or (None if since else _LINES), query)):
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


def metrics(endpoint: Reference) -> None:
    """Show what an endpoint's replicas measure, in Prometheus' text form."""
    client = Client(find_connection())
    path = f"{ENDPOINTS}/{find(client, endpoint)['endpoint_id']}/metrics"
    typer.echo(client.text(path), nl=False)


def moment(text: str, now: datetime) -> str:
    """Return a moment as the API wants it, from "10m" ago or from a time; "" stays "".

    Raises:
        typer.BadParameter: it is neither.

    """
    if not text:
        return ""
    try:
        if (ago := duration(text)) is not None:
            at = now - ago
        else:
            at = datetime.fromisoformat(text).astimezone(UTC)  # without a zone it is local time
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time: give 10m, 2h or 3d ago, or 2026-01-31T12:00:00Z"
        ) from error
    return at.isoformat().replace("+00:00", "Z")


def _last_lines(client: Client, path: str, most: int | None, query: dict[str, str]) -> list[Json]:
    """Return the last lines, `most` at most, newest first."""
    found: list[Json] = []
    before: int | None = None
    while most is None or len(found) < most:
        limit = _PAGE if most is None else min(_PAGE, most - len(found))
        place = {} if before is None else {"before": before}
        page = client.get(path, limit=limit, **place, **query)
        found += page["data"]
        before = page["before"]
        if before is None:
            break
    return found


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
