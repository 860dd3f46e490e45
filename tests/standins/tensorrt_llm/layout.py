"""The folders and files of the image, in the places where NVIDIA's has them."""

import os
import shutil
import site
import sys
from pathlib import Path
from typing import Final

from engineshed.triton import orphan
from engineshed.triton.installation import find_triton

from .templates import Template, llmapi_config

_HERE: Final = Path(__file__).parent
_FAMILIES: Final = ("llama", "qwen", "gpt", "gemma", "phi")
_PYTHON: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"


def write_python(image: Path) -> None:
    """Make the image's interpreter: this one, with its packages and those of the image."""
    (image / "bin").mkdir(parents=True)
    real = Path(os.path.realpath(sys.executable))
    for name in ("python3", "python", _PYTHON):
        (image / "bin" / name).symlink_to(real)
    (image / "pyvenv.cfg").write_text(
        f"home = {real.parent}\ninclude-system-site-packages = false\n"
    )
    packages = _packages(image)
    packages.mkdir(parents=True)
    (packages / "running.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    (packages / "stand_in_toolchain").symlink_to(_HERE / "toolchain")


def write_package(image: Path, name: str, version: str, *, without: tuple[str, ...] = ()) -> None:
    """Install a stand-in package, without some of what is in it."""
    packages = _packages(image)
    (packages / name).mkdir()
    for part in (_HERE / "packages" / name).iterdir():
        if part.name not in (*without, "__pycache__"):
            (packages / name / part.name).symlink_to(part)
    metadata = packages / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "RECORD").write_text(
        "".join(f"{name}/{part.name},,\n" for part in sorted((packages / name).rglob("*.py")))
    )


def write_program(image: Path, path: str, call: str) -> None:
    """Write a program that runs a function of the toolchain: `build.main()`."""
    module = call.partition(".")[0]
    program = image / path
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        f"#!{image / 'bin' / 'python3'}\nfrom stand_in_toolchain import {module}\n\n{call}\n"
    )
    program.chmod(0o755)


def write_engine_tools(image: Path, examples: str) -> None:
    """Write what builds engines."""
    write_program(image, "bin/trtllm-build", "build.main()")
    for family in _FAMILIES:
        path = f"{examples}/models/core/{family}/convert_checkpoint.py"
        write_program(image, path, f'convert.main("{family}")')
    write_program(image, f"{examples}/quantization/quantize.py", "quantize.main()")
    path = f"{examples}/generate_xgrammar_tokenizer_info.py"
    write_program(image, path, "tokenizer_info.main()")


def write_templates(image: Path, template: Template | None) -> None:
    """Write the Triton models that come with the image; None: no in-flight batcher is there."""
    models = image / "app" / "all_models"
    if template is not None:
        batcher = models / "inflight_batcher_llm" / "tensorrt_llm"
        (batcher / "1").mkdir(parents=True)
        (batcher / "config.pbtxt").write_text(template.text())
    llmapi = models / "llmapi" / "tensorrt_llm"
    (llmapi / "1").mkdir(parents=True)
    (llmapi / "config.pbtxt").write_text(llmapi_config())
    for name in ("model.py", "helpers.py", "model.yaml"):
        (llmapi / "1" / name).symlink_to(_HERE / "llmapi" / name)


def write_triton(image: Path, *, engines: bool) -> None:
    """Write a Triton that is the wheel's, with the stand-in for the tensorrtllm back end."""
    wheel = find_triton()
    assert wheel.stub is not None, "the stand-in serves with the Triton of nvidia-pytriton"
    root = image / "opt" / "tritonserver"
    (root / "bin").mkdir(parents=True)
    libraries = os.pathsep.join(map(str, wheel.libraries))
    server = root / "bin" / "tritonserver"
    server.write_text(
        f"#!/bin/sh\nexport LD_LIBRARY_PATH={libraries}:$LD_LIBRARY_PATH\n"
        f'exec {wheel.server} "$@"\n'
    )
    server.chmod(0o755)
    python = root / "backends" / "python"
    python.mkdir(parents=True)
    for file in (*(wheel.backends / "python").iterdir(), wheel.stub):
        if file.is_file():
            shutil.copy2(file, python)  # Triton takes no library that lies elsewhere
    if engines:
        _write_backend(image, root / "backends" / "tensorrtllm")


def _write_backend(image: Path, backend: Path) -> None:
    backend.mkdir()
    (backend / "model.py").symlink_to(_HERE / "backend" / "model.py")
    (backend / "stand_in_toolchain").symlink_to(_HERE / "toolchain")
    (backend / "orphan.py").symlink_to(orphan.__file__)
    (backend / "image").symlink_to(image)
    (backend / "libtriton_tensorrtllm.so").touch()
    (backend / "trtllmExecutorWorker").touch(mode=0o755)


def _packages(image: Path) -> Path:
    return image / "lib" / _PYTHON / "site-packages"
