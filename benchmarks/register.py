"""How long it takes to register a checkpoint: to copy it into the artifact store and hash it.

The baseline is what an administrator would type for the same files: `cp`, and `sha256sum` of as
many files at once as there are cores; one after the other, and both at the same time, which is
harder to beat but hashes the source, not what was stored. All files are in the page cache. A
registered checkpoint is on disk; what `cp` wrote is not, and nobody waits for that here.

Whoever builds an engine hashes the stored files once more, against what was registered.
"""

import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil
from benchmarks.harness import ROOT, Figure, Report, Target
from benchmarks.parts.stack import Json, Stack, running_stack, until

from engineshed.agent.engines.checkpoint import hash_files, read_layout

ROUNDS: Final = int(os.environ.get("BENCH_REGISTER_ROUNDS", "3"))
SHARDS: Final = (4, 64)
TOTAL_BYTES: Final = int(os.environ.get("BENCH_REGISTER_MIB", "2048")) * 2**20

_WIDTH: Final = 4096  # of the one matrix in each shard, in elements
_SAMPLE: Final = ROOT / "services" / "engineshed" / "catalog" / "sample"
_SIDE_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_PATIENCE: Final = 600.0


def main() -> None:
    """Measure and report."""
    report = Report("register")
    grown: list[int] = []
    with (
        tempfile.TemporaryDirectory(prefix="engineshed-bench-") as folder,
        running_stack(Path(folder) / "stack") as stack,
    ):
        for shards in SHARDS:
            source = Path(folder) / f"checkpoint-{shards}"
            size = _make_checkpoint(source, shards)
            name = f"registering {size / 1e9:.1f} GB in {shards} files"
            grown.append(_measure(report, name, stack, source))
            shutil.rmtree(source)
    report.add(
        Figure(
            "memory (RSS) that the catalog takes more meanwhile",
            max(grown) / 1e6,
            "MB",
            target=Target("at most", 100, of="value"),
        )
    )
    report.finish()


def _measure(report: Report, name: str, stack: Stack, source: Path) -> int:
    """Take turns, and report; return by how much the catalog grew at most."""
    ours: list[float] = []
    by_hand: list[float] = []
    at_once: list[float] = []
    grown: list[int] = []
    verified: list[float] = []
    hashed: list[float] = []
    copy = source.with_name("copy")
    for _ in range(ROUNDS):
        _settle()
        by_hand.append(_by_hand(source, copy))
        _settle()
        at_once.append(_by_hand(source, copy, at_once=True))
        _settle()
        seconds, growth = _registered(stack, source)
        ours.append(seconds)
        grown.append(growth)
        hashed.append(_hashed_by_hand(source))
        verified.append(_verified(source))
    for baseline, theirs in (
        ("cp, then sha256sum", by_hand),
        ("cp beside sha256sum", at_once),
    ):
        target = Target("at most", 1.2)
        middle, middle_by_hand = statistics.median(ours), statistics.median(theirs)
        report.add(
            Figure(f"{name}, best", min(ours), "s", baseline, min(theirs), target),
            Figure(f"{name}, median", middle, "s", baseline, middle_by_hand, target),
        )
    report.add(
        Figure(
            name.replace("registering", "verifying") + " for a build, median",
            statistics.median(verified),
            "s",
            "sha256sum",
            statistics.median(hashed),
            Target("at most", 1.2),
        )
    )
    return max(grown)


def _make_checkpoint(folder: Path, shards: int) -> int:
    """Write a checkpoint with random weights in so many files; return its size in bytes."""
    shard_bytes = TOTAL_BYTES // shards
    folder.mkdir()
    for name in _SIDE_FILES:
        shutil.copy(_SAMPLE / name, folder)
    block = random.Random(0).randbytes(2**20)
    placed: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        tensor = f"model.layers.{number}.mlp.up_proj.weight"
        placed[tensor] = name
        shape = [shard_bytes // 2 // _WIDTH, _WIDTH]
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [0, shard_bytes]}
        header = json.dumps({tensor: entry}).encode()
        header += b" " * (-len(header) % 8)
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for _ in range(shard_bytes // len(block)):
                file.write(block)
    index = {"metadata": {"total_size": TOTAL_BYTES}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in folder.iterdir())


def _settle() -> None:
    """Let nothing that was written before be written during the next measurement."""
    os.sync()


def _by_hand(source: Path, target: Path, *, at_once: bool = False) -> float:
    try:
        began = time.monotonic()
        with subprocess.Popen(["cp", "-r", source, target]) as copy:
            if not at_once:
                copy.wait()
            _hashed_by_hand(source)
        if copy.returncode:
            raise RuntimeError(f"cp ended with {copy.returncode}")
        return time.monotonic() - began
    finally:
        shutil.rmtree(target)


def _hashed_by_hand(source: Path) -> float:
    """Hash all files, as many at once as there are cores; return how long it took."""
    began = time.monotonic()
    subprocess.run(
        ["xargs", "-0", "-n1", f"-P{os.cpu_count()}", "sha256sum"],
        input=b"\0".join(os.fsencode(path) for path in source.iterdir()),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - began


def _verified(source: Path) -> float:
    """Hash what a build needs as it does; return how long it took."""
    began = time.monotonic()
    hash_files(read_layout(source), lambda _: None)
    return time.monotonic() - began


def _registered(stack: Stack, source: Path) -> tuple[float, int]:
    """Return the seconds until it is registered, and by how much the catalog grew meanwhile."""
    catalog = stack.processes()["catalog"]
    before = most = _rss(catalog)
    began = time.monotonic()
    created = stack.call("POST", "/v0/checkpoints", {"name": "big", "uri": source.as_uri()})
    path = f"/v0/checkpoints/{created['checkpoint_id']}"

    def done() -> Json | None:
        nonlocal most
        most = max(most, _rss(catalog))
        found = stack.call("GET", path)
        if found["status"] == "failed":
            raise RuntimeError(f"the registration failed: {found}")
        return found if found["status"] == "registered" else None

    until("the checkpoint", done, _PATIENCE, pause=0.05)
    seconds = time.monotonic() - began
    stack.call("DELETE", path)
    return seconds, most - before


def _rss(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


if __name__ == "__main__":
    main()
