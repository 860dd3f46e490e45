"""Where Triton is on this machine: in NVIDIA's image, or in the wheel of nvidia-pytriton.

The wheel carries the server and its Python back end, but apart: the back end looks for the stub of
the running interpreter in its own folder, so such a folder is put together here.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

FOLDER: Final = "ENGINESHED_TRITON_DIR"
"""The variable that names the folder of a Triton that lies elsewhere than in NVIDIA's image."""

_IMAGE: Final = Path("/opt/tritonserver")
_STUB: Final = "triton_python_backend_stub"


class TritonNotFoundError(Exception):
    """There is no Triton here that could run; the message says how to get one."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A Triton that can be started."""

    server: Path
    backends: Path
    """The back ends that came with it."""
    version: str
    """Of what brought it: names the folder of prepared back ends."""
    stub: Path | None = None
    """The Python back end's program for this interpreter; None: it lies where it belongs."""
    libraries: tuple[Path, ...] = ()
    """Folders of shared libraries that the server and the stub need."""


def find_triton() -> Installation:
    """Return the Triton of this machine: one that was named, NVIDIA's image, or the wheel.

    Raises:
        TritonNotFoundError: none is here, or the wheel's cannot run this interpreter.

    """
    image = Path(os.environ.get(FOLDER) or _IMAGE)
    server = image / "bin" / "tritonserver"
    if server.is_file():
        return Installation(server, image / "backends", version="image")
    if os.environ.get(FOLDER):
        raise TritonNotFoundError(f"{FOLDER} is {image}, but there is no {server}")
    spec = importlib.util.find_spec("pytriton")  # does not import it
    if spec is None or not spec.submodule_search_locations:
        raise TritonNotFoundError(
            "Triton is not here: run in NVIDIA's Triton image, or install the wheel that carries "
            "one with pip install 'engineshed[embedded]'"
        )
    package = Path(spec.submodule_search_locations[0])
    root = package / "tritonserver"
    return Installation(
        server=root / "bin" / "tritonserver",
        backends=root / "backends",
        version=f"nvidia-pytriton-{version('nvidia-pytriton')}",
        stub=_stub_of_this_interpreter(root),
        libraries=(package.parent / "nvidia_pytriton.libs", _libpython_folder()),
    )


def prepare_backends(installation: Installation, folder: Path) -> Path:
    """Return a back-end directory for `--backend-directory`, made below `folder` if need be.

    What was made once is used again; several processes may ask at the same time.
    """
    if installation.stub is None:
        return installation.backends
    prepared = folder / f"{installation.version}-{_interpreter()}"
    if prepared.is_dir():
        return prepared
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        backend = Path(scratch) / "new" / "python"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(installation.backends / "python", backend, ignore=ignored)
        shutil.copy2(installation.stub, backend)  # a link would end with this environment
        try:
            backend.parent.rename(prepared)
        except OSError:
            if not prepared.is_dir():  # else another process was faster
                raise
    return prepared


def _interpreter() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _stub_of_this_interpreter(root: Path) -> Path:
    stubs = root / "python_backend_stubs"
    stub = stubs / _interpreter() / _STUB
    if not stub.is_file():
        offered = ", ".join(sorted(path.name for path in stubs.iterdir()))
        raise TritonNotFoundError(
            f"Triton's Python back end has no stub for Python {_interpreter()}; "
            f"use one of {offered}"
        )
    return stub


def _libpython_folder() -> Path:
    """Return the folder of the interpreter's shared library, which the stub is linked to."""
    name = f"libpython{_interpreter()}.so.1.0"
    configured = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    # Relocated builds (uv's, conda's) state the folder they were built in: so look beside, too.
    candidates = (Path(sys.base_prefix) / "lib", configured, configured / multiarch)
    for folder in candidates:
        if (folder / name).exists():
            return folder
    looked = ", ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise TritonNotFoundError(
        f"Triton's Python back end needs {name}, which this interpreter ({sys.base_prefix}) does "
        f"not have in {looked}. On Debian and Ubuntu: apt-get install libpython{_interpreter()}. "
        "With pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install. Or use uv's Python"
    )
