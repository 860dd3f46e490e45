"""An engine's folder: config.json, and for each rank a file with what its server must know.

A real engine's file is a TensorRT plan; this one is a line of JSON behind a mark.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_MARK: Final = "a stand-in for a TensorRT plan\n"


class BrokenPlanError(Exception):
    """The file of a rank is not there, or not whole."""


@dataclass(frozen=True)
class Plan:
    """What the engine of one rank was built for."""

    rank: int
    compute_capability: str
    """Of the GPU that it was built on, `9.0`."""
    tensorrt_version: str
    vocab_size: int
    avoided: list[int]
    """Tokens that are no text."""

    def write(self, engine: Path) -> None:
        text = _MARK + json.dumps(asdict(self)) + "\n"
        _path(engine, self.rank).write_text(text)


def read_plan(engine: Path, rank: int) -> Plan:
    """Read the file of a rank.

    Raises:
        BrokenPlanError: it is missing, or was cut off.

    """
    try:
        text = _path(engine, rank).read_text()
    except OSError as error:
        raise BrokenPlanError(str(error)) from error
    if not text.startswith(_MARK) or not text.endswith("}\n"):
        raise BrokenPlanError(f"{_path(engine, rank)} is cut off")
    return Plan(**json.loads(text.removeprefix(_MARK)))


def break_plan(engine: Path, rank: int, how: str) -> None:
    """Make the file of a rank `short`, `empty` or `missing`."""
    path = _path(engine, rank)
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40] if how == "short" else b"")


def write_config(
    engine: Path, version: str, pretrained: dict[str, Any], build: dict[str, Any]
) -> None:
    config = {"version": version, "pretrained_config": pretrained, "build_config": build}
    (engine / "config.json").write_text(json.dumps(config, indent=4))


def read_config(engine: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((engine / "config.json").read_text())
    return config


def _path(engine: Path, rank: int) -> Path:
    return engine / f"rank{rank}.engine"
