"""Generate libs/engineshed/api and libs/buf from proto/, or check all that CI checks of them.

`generate` writes the code. `check` lints, compares the format, looks for changes that would break
callers, and fails when the committed code is not what the protos give.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
VENDOR = PROTO / "vendor"
BIN = Path(sys.executable).parent
# What generation owns below libs/.
GENERATED = ("engineshed/api", "buf")
# How many earlier versions of the protos must still be served.
_VERSIONS = 10


def main() -> int:
    """Run the command named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["generate", "check"])
    command = parser.parse_args().command
    if command == "generate":
        for package in GENERATED:
            shutil.rmtree(ROOT / "libs" / package, ignore_errors=True)
        generate(ROOT / "libs")
        return 0
    return check()


def generate(out: Path) -> None:
    """Write messages, stubs and their types for all protos below `out`."""
    ours = sorted(path for path in PROTO.rglob("*.proto") if VENDOR not in path.parents)
    vendored = sorted(VENDOR.rglob("*.proto"))
    flags = [f"--python_out={out}", f"--mypy_out=quiet:{out}"]
    grpc = [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
    _protoc([*flags, *grpc], ours)
    _protoc(flags, vendored)
    for package in GENERATED:
        folders = [out / package, *(path for path in (out / package).rglob("*") if path.is_dir())]
        for folder in folders:
            (folder / "__init__.py").write_text('"""Generated from proto/; do not edit."""\n')
            (folder / "py.typed").touch()


def check() -> int:
    """Return 0 when the protos are clean, compatible and their code is not stale."""
    results = [
        _buf("lint"),
        _buf("format", "--diff", "--exit-code", "proto"),
        _breaking(),
        _stale(),
    ]
    return max(results)


def _breaking() -> int:
    """Compare with the last versions of the protos; uncommitted changes count as the present one.

    Not only with the commit before: a change that breaks callers stays one when others follow it.
    """
    log = ["git", "log", f"--max-count={_VERSIONS}", "--format=%H", "--", "proto/engineshed"]
    done = subprocess.run(log, cwd=ROOT, capture_output=True, text=True, check=True)
    versions = done.stdout.split()
    if not versions:
        print("buf breaking: no earlier protos to compare with")
    return max((_buf("breaking", "--against", f".git#ref={one}") for one in versions), default=0)


def _stale() -> int:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = [
            str(path)
            for package in GENERATED
            for path in _differences(Path(folder) / package, ROOT / "libs" / package)
        ]
    if stale:
        print("generated code is stale; run: make proto", *stale, sep="\n  ")
    return 1 if stale else 0


def _differences(fresh: Path, committed: Path) -> list[Path]:
    names = {
        path.relative_to(root)
        for root in (fresh, committed)
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return [
        committed / name
        for name in sorted(names)
        if not (fresh / name).exists()
        or not (committed / name).exists()
        or not filecmp.cmp(fresh / name, committed / name, shallow=False)
    ]


def _protoc(flags: Sequence[str], protos: Sequence[Path]) -> None:
    well_known = str(files("grpc_tools") / "_proto")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={VENDOR}",  # first: it lies below the other one
            f"--proto_path={PROTO}",
            f"--proto_path={well_known}",
            f"--plugin=protoc-gen-mypy={BIN / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={BIN / 'protoc-gen-mypy_grpc'}",
            *flags,
            *map(str, protos),
        ],
        check=True,
    )


def _buf(*arguments: str) -> int:
    return subprocess.run([str(BIN / "buf"), *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
