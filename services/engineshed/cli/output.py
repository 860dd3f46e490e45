"""What the commands print: tables and lines for people, JSON for programs."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

out = Console()
err = Console(stderr=True)


class Format(StrEnum):
    """How to print."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.", show_default=True)]

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], object]]

_COLORS = {
    "running": "green",
    "ready": "green",
    "registered": "green",
    "joined": "green",
    "failed": "red",
    "lost": "red",
    "stopped": "dim",
    "terminated": "dim",
    "deleted": "dim",
    "reclaimed": "dim",
}


def print_json(value: object) -> None:
    """Print `value` as JSON, and nothing else."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(rows: Sequence[Row], columns: Sequence[Column], form: Format) -> None:
    """Print a list."""
    if form is Format.JSON:
        print_json(list(rows))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, _ in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value(row)) for _, value in columns))
    out.print(table)


def print_object(item: Row, form: Format) -> None:
    """Print one object with all its fields."""
    if form is Format.JSON:
        print_json(item)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in item.items():
        if name == "id" or value in (None, "", [], {}):
            continue
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        table.add_row(name, _text(shown))
    out.print(table)


def colored(status: str) -> str:
    """Return `status` with its color."""
    color = _COLORS.get(status, "yellow")
    return f"[{color}]{status}[/]"


def age(moment: str) -> str:
    """Return how long ago `moment` (RFC 3339) was, e.g. `3 min`."""
    if not moment:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def size(count: float) -> str:
    """Return a number of bytes for people, e.g. `7.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _text(value: object) -> str:
    return "" if value is None else str(value)
