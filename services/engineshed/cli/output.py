"""What the commands print: tables and lines for people, JSON for programs.

Whatever comes from the platform is printed as it is: its brackets are no markup, its `:fire:` is no
emoji, and no line is broken, so that ids can be copied from a terminal and found in a pipe.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

out = Console(emoji=False)
err = Console(stderr=True, emoji=False)


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
    "idle": "cyan",
    "failed": "red",
    "lost": "red",
    "stopped": "dim",
    "terminated": "dim",
    "deleted": "dim",
    "reclaimed": "dim",
    "left": "dim",
}


def print_json(value: object) -> None:
    """Print `value` as JSON, and nothing else."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(rows: Sequence[Row], columns: Sequence[Column], form: Format) -> None:
    """Print a list."""
    if form is Format.JSON:
        print_json(list(rows))
        return
    head = [Text(title, style="bold") for title, _ in columns]
    _print_table([head, *([_cell(value(row)) for _, value in columns] for row in rows)])


def print_object(item: Row, form: Format) -> None:
    """Print one object with all its fields."""
    if form is Format.JSON:
        print_json(item)
        return
    shown = [
        (name, json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value)
        for name, value in item.items()
        if name != "id" and value not in (None, "", [], {})
    ]
    _print_table([[Text(name, style="bold"), _cell(value)] for name, value in shown])


def print_error(message: str) -> None:
    """Print what went wrong on standard error."""
    err.print(Text.assemble(("error:", "red"), " ", message), soft_wrap=True)


def colored(status: str) -> Text:
    """Return `status` with its color."""
    return Text(status, style=_COLORS.get(status, "yellow"))


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


def _cell(value: object) -> Text:
    return value if isinstance(value, Text) else Text("" if value is None else str(value))


def _print_table(lines: Sequence[Sequence[Text]]) -> None:
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        for cell, width in zip(line[:-1], widths[:-1], strict=True):
            cell.pad_right(width - cell.cell_len)
        out.print(Text("  ").join(line), soft_wrap=True)
