"""Durations as people write them: 90s, 5m, 2h."""

import re
from datetime import timedelta
from typing import Final

import typer

METAVAR: Final = "DURATION"

_WRITTEN: Final = re.compile(r"(?P<number>\d{1,9}(\.\d{1,9})?)(?P<unit>[smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta | None:
    """Return the duration that `text` says; None: it says none.

    Raises:
        OverflowError: it is longer than any that there is.
    """
    found = _WRITTEN.fullmatch(text)
    return timedelta(**{_UNITS[found["unit"]]: float(found["number"])}) if found else None


def seconds(text: str) -> float:
    """Return the seconds that the value of an option says, whole ones as an integer.

    Raises:
        typer.BadParameter: it is no duration.
    """
    try:
        found = duration(text) if text != "0" else timedelta()
    except OverflowError:
        found = None
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: give 90s, 5m or 2h")
    count = found.total_seconds()
    return int(count) if count.is_integer() else count
