"""What the image has to build and to serve with: found by looking, never told by the image's name.

Programs are found on PATH, scripts and templates in the folder of TensorRT-LLM, Triton's parts
beside Triton. What packages know of themselves is asked in a process of their own interpreter: an
import of TensorRT-LLM takes long and initializes CUDA and MPI.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engineshed.agent.asking import ask
from engineshed.triton.installation import TritonNotFoundError, find_triton
from engineshed.triton.launch import engine_environment

APP: Final = Path("/app")
"""Where NVIDIA's image keeps the scripts and templates of TensorRT-LLM."""

_METADATA_SECONDS: Final = 10.0
_COMMANDS: Final = ("trtllm-build", "trtllm-serve", "trtllm-bench")
"""Programs of TensorRT-LLM; any of them names the interpreter that has its packages."""

_ASK_VERSIONS: Final = """
import importlib.metadata as metadata, json
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
print(json.dumps({name: version(name) for name in ("tensorrt_llm", "tensorrt")}))
"""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What was found. None, or "", for what is not there."""

    build: Path | None
    """trtllm-build."""
    interpreter: Path
    """The Python that has TensorRT-LLM, if any has: the programs' own."""
    tensorrt_llm: str
    """The version of the package."""
    tensorrt: str
    examples: Path | None
    scripts: Mapping[str, Path]
    """convert_checkpoint.py of each model family, e.g. `llama`."""
    quantize: Path | None
    tokenizer_info: Path | None
    """generate_xgrammar_tokenizer_info.py: guided decoding needs what it writes."""
    template: Path | None
    """config.pbtxt of the in-flight batcher's model, to be filled in."""
    llmapi: Path | None
    """The folder of the model around the LLM API."""
    library: Path | None
    """Of Triton's tensorrtllm back end."""
    worker: Path | None
    """That back end's trtllmExecutorWorker."""
    python_backend: Path | None
    """The library of Triton's Python back end, which the LLM API's model needs."""
    mpirun: Path | None

    @property
    def lacks_to_compile(self) -> tuple[str, ...]:
        """What is missing to build and serve compiled engines, by name."""
        return _missing(
            {
                "tensorrt_llm": self.tensorrt_llm,
                "trtllm-build": self.build,
                "conversion scripts": self.scripts,
                "in-flight batcher template": self.template,
                "Triton's tensorrtllm back end": self.library,
            }
        )

    @property
    def lacks_to_interpret(self) -> tuple[str, ...]:
        """What is missing to serve with the LLM API's model, by name."""
        return _missing(
            {
                "tensorrt_llm": self.tensorrt_llm,
                "LLM API model": self.llmapi,
                "Triton's Python back end": self.python_backend,
            }
        )


def find_toolchain(app: Path = APP) -> Toolchain:
    """Look for everything; scripts and templates are below `app`. Quick.

    Raises:
        ProcessFailedError: the interpreter does not say what it has.

    """
    interpreter = _interpreter()
    asked = [str(interpreter), "-c", _ASK_VERSIONS]
    versions = ask(asked, _METADATA_SECONDS, toolchain_environment(interpreter))
    examples = _examples(app)
    scripts = sorted(examples.glob("models/*/*/convert_checkpoint.py"))
    backends = _backends()
    return Toolchain(
        build=_program("trtllm-build"),
        interpreter=interpreter,
        tensorrt_llm=versions["tensorrt_llm"],
        tensorrt=versions["tensorrt"] or os.environ.get("TRT_VERSION", ""),
        examples=_if_there(examples),
        scripts={script.parent.name: script for script in scripts},
        quantize=_if_there(examples / "quantization" / "quantize.py"),
        tokenizer_info=_if_there(examples / "generate_xgrammar_tokenizer_info.py"),
        template=_if_there(app / "all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt"),
        llmapi=_if_there(app / "all_models/llmapi/tensorrt_llm"),
        library=_if_there(backends / "tensorrtllm" / "libtriton_tensorrtllm.so"),
        worker=_if_there(backends / "tensorrtllm" / "trtllmExecutorWorker"),
        python_backend=_if_there(backends / "python" / "libtriton_python.so"),
        mpirun=_program("mpirun"),
    )


def toolchain_environment(interpreter: Path) -> dict[str, str]:
    """Return the environment in which the image's own programs run: theirs, with nothing of ours.

    No secret of ours is in it, our interpreter and packages are not on its paths, and nothing in it
    is fetched from a network.
    """
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV")
    env = {name: value for name, value in engine_environment().items() if name not in ours}
    theirs, mine = str(interpreter.parent), str(Path(sys.prefix) / "bin")
    paths = [path for path in env.get("PATH", "").split(os.pathsep) if path not in (theirs, mine)]
    return env | {
        "PATH": os.pathsep.join((theirs, *paths)),
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _interpreter() -> Path:
    """Return the interpreter whose packages count."""
    for name in _COMMANDS:
        if (command := _program(name)) and (named := _named_by(command)):
            return named
    # Where no program tells: the image's first Python that is not ours.
    mine = str(Path(sys.prefix) / "bin")
    paths = [path for path in os.environ.get("PATH", "").split(os.pathsep) if path != mine]
    found = shutil.which("python3", path=os.pathsep.join(paths))
    return Path(found or sys.executable)


def _named_by(command: Path) -> Path | None:
    """Return the Python that a command's first line names."""
    with command.open("rb") as file:
        line = file.readline(1024).decode(errors="replace")
    words = line.removeprefix("#!").split() if line.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    if not words or "python" not in Path(words[0]).name:
        return None
    found = shutil.which(words[0])
    return Path(found) if found else None


def _program(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _examples(app: Path) -> Path:
    """Return the folder of the conversion scripts, which has moved between the images."""
    moved = app / "tensorrt_llm" / "examples"
    return moved if moved.is_dir() else app / "examples"


def _backends() -> Path:
    """Return the folder of Triton's back ends; one that is not there where Triton is not."""
    try:
        return find_triton().backends
    except TritonNotFoundError:
        return Path(os.devnull)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _missing(parts: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(name for name, part in parts.items() if not part)
