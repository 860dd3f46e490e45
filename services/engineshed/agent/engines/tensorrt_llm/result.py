"""What came out of a build, compared with what was asked for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engineshed.agent.engines.interface import EngineBuildError
from engineshed.agent.engines.tensorrt_llm.plan import BuildPlan


def check_converted(folder: Path, tp_size: int) -> None:
    """See that an intermediate checkpoint is whole.

    Raises:
        EngineBuildError: it is not.

    """
    missing = _missing(folder, [f"rank{rank}.safetensors" for rank in range(tp_size)])
    if missing:
        raise EngineBuildError(
            "CONVERT_FAILED",
            f"the conversion ended without an error, but {', '.join(missing)} is not there, or "
            "empty; the build's log says more",
            retryable=True,
        )


def check_engine(folder: Path, plan: BuildPlan, version: str) -> Mapping[str, Any]:
    """Return config.json of an engine that is whole and what was asked for.

    Args:
        folder: the engine's.
        plan: what was asked for.
        version: of the TensorRT-LLM that built it.

    Raises:
        EngineBuildError: ENGINE_INCOMPLETE or LIMITS_DIFFER.

    """
    if missing := _missing(folder, [f"rank{rank}.engine" for rank in range(plan.tp_size)]):
        raise _incomplete(f"{', '.join(missing)} is not there, or empty")
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        built, model = config["build_config"], config["pretrained_config"]
        world_size = model["mapping"]["world_size"]
    except (ValueError, KeyError, TypeError) as error:
        raise _incomplete(f"its config.json is none ({error!r})") from error
    if config.get("version") != version:
        raise _incomplete(f"its version is {config.get('version')}, not {version}")
    asked = asdict(plan.limits) | {"world_size": plan.tp_size}
    got = {name: built.get(name) for name in asdict(plan.limits)} | {"world_size": world_size}
    if differ := [name for name, value in asked.items() if got[name] != value]:
        told = "; ".join(f"{name} is {got[name]}, not {asked[name]}" for name in differ)
        raise EngineBuildError(
            "LIMITS_DIFFER",
            f"the engine is not what was asked for: {told}",
            retryable=False,
        )
    return config


def _missing(folder: Path, names: Sequence[str]) -> list[str]:
    """Return which files, config.json among them, are not there or empty."""
    files = (folder / name for name in ("config.json", *names))
    return [file.name for file in files if not file.is_file() or not file.stat().st_size]


def _incomplete(reason: str) -> EngineBuildError:
    return EngineBuildError(
        "ENGINE_INCOMPLETE",
        f"trtllm-build ended without an error, but the engine is not whole: {reason}",
        retryable=True,
    )
