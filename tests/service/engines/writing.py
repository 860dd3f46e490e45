"""A back end that writes a file: for tests of what happens around a build."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from engineshed.agent.engines.files import hash_file
from engineshed.agent.engines.interface import (
    BuildRequest,
    Checkpoint,
    EngineBuildError,
    Fit,
    Probe,
    Progress,
    Runtime,
)
from engineshed.triton.engine import EngineFile, EngineManifest

REQUEST = BuildRequest(Checkpoint(Path("/nowhere"), "sha256:11"))


class WritingBackend:
    """Builds engines of one file. A build waits until `let_go` is set, and fails if told to."""

    name = "writing"

    def __init__(self) -> None:
        self.builds = 0
        self.error: EngineBuildError | None = None
        self.started = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    def probe(self) -> Probe:
        return Probe(available=True)

    def fingerprint(self) -> Mapping[str, str]:
        return {"pen": "1.0"}

    def declines(self, request: BuildRequest) -> str:
        return ""

    def recipe(self, request: BuildRequest) -> Mapping[str, object]:
        return {"max_context": request.max_context}

    def fits(self, request: BuildRequest) -> Fit:
        return Fit(True, 0, 0)

    async def build(
        self, request: BuildRequest, destination: Path, progress: Progress, log: Path
    ) -> EngineManifest:
        self.builds += 1
        progress("writing", 0.5)
        (destination / "words").write_text("weights")
        self.started.set()
        await self.let_go.wait()
        if self.error:
            raise self.error
        manifest = manifest_of(request).sealed(
            {"words": EngineFile(7, hash_file(destination / "words"))}
        )
        manifest.write(destination)
        return manifest

    def render(self, engine: Path, repository: Path, runtime: Runtime) -> None:
        raise NotImplementedError


def manifest_of(request: BuildRequest) -> EngineManifest:
    return EngineManifest(
        backend="writing",
        engine_kind="pytorch",
        checkpoint_digest=request.checkpoint.digest,
        architecture="Words",
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
    )


def unheard(_stage: str, _fraction: float) -> None:
    pass
