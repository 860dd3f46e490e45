"""The agent with stand-ins for what is slow: the replica's front, and a back end that copies.

The back end goes by files in the checkpoint's folder: with `bad` the build fails, with `gate` it
goes on only when that is removed.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from engineshed.agent.engines.files import hash_file
from engineshed.agent.engines.interface import (
    BuildRequest,
    EngineBuildError,
    Fit,
    Probe,
    Progress,
    Runtime,
)
from engineshed.agent.process import serve
from engineshed.agent.settings import AgentSettings
from engineshed.runtime import configure_logging, run
from engineshed.triton.engine import EngineFile, EngineManifest

FRONT = (sys.executable, str(Path(__file__).with_name("stand_in_front.py")))


class CopyingBackend:
    """Its engines are copies of the checkpoint's weights."""

    name = "copying"

    def probe(self) -> Probe:
        return Probe(available=True)

    def fingerprint(self) -> Mapping[str, str]:
        return {"copying": "1"}

    def declines(self, request: BuildRequest) -> str:
        return ""

    def recipe(self, request: BuildRequest) -> Mapping[str, object]:
        return {"max_context": request.max_context}

    def fits(self, request: BuildRequest) -> Fit:
        return Fit(True, 0, 0)

    async def build(
        self, request: BuildRequest, destination: Path, progress: Progress, log: Path
    ) -> EngineManifest:
        source = request.checkpoint.directory
        with log.open("a") as file:
            file.write("a build begins\n")
        if (source / "bad").exists():
            evidence = ["reading the weights", "they are bad"]
            raise EngineBuildError(
                "BAD_WEIGHTS", "the weights are bad", retryable=False, evidence=evidence
            )
        progress("copying", 0.5)
        while (source / "gate").exists():
            await asyncio.sleep(0.01)
        with (source / "builds").open("a") as file:
            file.write("built\n")
        weights = destination / "weights"
        weights.write_bytes((source / "weights").read_bytes())
        files = {"weights": EngineFile(weights.stat().st_size, hash_file(weights))}
        manifest = _manifest(request.checkpoint.digest).sealed(files)
        manifest.write(destination)
        return manifest

    def render(self, engine: Path, repository: Path, runtime: Runtime) -> None:
        (repository / "engine").write_text(str(engine))


def _manifest(checkpoint_digest: str) -> EngineManifest:
    return EngineManifest(
        backend="copying",
        engine_kind="pytorch",
        checkpoint_digest=checkpoint_digest,
        architecture="Copy",
        parameter_count=0,
        dtype="float32",
        quantization=None,
        vocab_size=1,
        max_context=1,
        max_concurrent=1,
        eos_token_ids=(),
        hardware="cpu",
        decoding="continuous",
        attention="none",
        tokenizer="",
        kv_token_bytes=1000,
    )


if __name__ == "__main__":
    settings = AgentSettings()
    configure_logging("agent", settings.log_level)
    run(lambda stop: serve(settings, stop, FRONT, {"copying": CopyingBackend()}))
