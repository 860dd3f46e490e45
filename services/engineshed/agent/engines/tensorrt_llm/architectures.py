"""The model classes that TensorRT-LLM has, asked of it and remembered.

Its import takes half a minute and more. So the answer is kept in a file, for as long as it is the
same TensorRT-LLM: an engine that is in the cache shall not wait for it after each agent's start.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from engineshed.agent.asking import ask
from engineshed.agent.engines.tensorrt_llm.toolchain import Toolchain, toolchain_environment
from engineshed.runtime import write_private

_IMPORT_SECONDS: Final = 180.0
# What is not there has been removed or moved, by release; any other failure must be heard.
_ASK: Final = """
import json
compiled, interpreted = [], []
try:
    from tensorrt_llm.models import MODEL_MAP
    compiled = list(MODEL_MAP)
except ImportError:
    pass
try:
    import tensorrt_llm._torch.models
    from tensorrt_llm._torch.models.modeling_utils import MODEL_CLASS_MAPPING
    interpreted = list(MODEL_CLASS_MAPPING)
except ImportError:
    pass
print(json.dumps({"compiled": compiled, "interpreted": interpreted}))
"""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Architectures:
    """The model classes that TensorRT-LLM has, by their names in config.json."""

    compiled: frozenset[str]
    """That an engine can be compiled for."""
    interpreted: frozenset[str]
    """That its PyTorch runtime runs."""


def find_architectures(toolchain: Toolchain, remembered: Path | None = None) -> Architectures:
    """Return the model classes of TensorRT-LLM. Where they are not known yet it takes minutes.

    Args:
        toolchain: what there is.
        remembered: the file of the last answer; None: it is asked anew.

    Raises:
        ProcessFailedError: it does not answer.

    """
    if remembered is not None and (known := _read(remembered, toolchain)):
        return known
    program = [str(toolchain.interpreter), "-c", _ASK]
    told = ask(program, _IMPORT_SECONDS, toolchain_environment(toolchain.interpreter))
    found = Architectures(frozenset(told["compiled"]), frozenset(told["interpreted"]))
    if remembered is not None and (found.compiled or found.interpreted):
        try:
            write_private(remembered, json.dumps({"of": _of(toolchain), **told}).encode())
        except OSError as error:  # then it is asked again
            log.warning("architectures_not_kept", file=str(remembered), error=str(error))
    return found


def _read(remembered: Path, toolchain: Toolchain) -> Architectures | None:
    try:
        told = json.loads(remembered.read_bytes())
        if told["of"] != _of(toolchain):
            return None
        return Architectures(frozenset(told["compiled"]), frozenset(told["interpreted"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("architectures_unreadable", file=str(remembered), error=repr(error))
        return None


def _of(toolchain: Toolchain) -> dict[str, str]:
    return {
        "interpreter": str(toolchain.interpreter),
        "tensorrt_llm": toolchain.tensorrt_llm,
        "tensorrt": toolchain.tensorrt,
    }
