"""The Triton of a replica, started by hand: what nobody can start faster."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2_grpc

from engineshed.replica.engine import Generation
from engineshed.replica.tokens import Layout
from engineshed.triton.control import load_model, read_tensors, wait_until_live
from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.installation import find_triton, prepare_backends
from engineshed.triton.launch import Ports, server_command

_PATIENCE: Final = 120.0


@dataclass(frozen=True, slots=True)
class TritonByHand:
    """The command line of a replica's front, and a copy of the models that its agent rendered."""

    models: Path
    backends: Path
    threads: int

    @classmethod
    def like(cls, replica: Path, models: Path) -> "TritonByHand":
        """Copy the models of a running replica, which has its folder at `replica`, to `models`."""
        spec = json.loads((replica / "spec.json").read_text())
        shutil.copytree(replica / "models", models, symlinks=True)
        return cls(models, Path(spec["tritonDirectory"]), spec["threads"])

    def first_token_seconds(self) -> float:
        """Start it, load the model, get one token over gRPC and stop it; return what that took."""
        return asyncio.run(self._first_token_seconds())

    async def _first_token_seconds(self) -> float:
        installation = find_triton()
        prepared = prepare_backends(installation, self.backends)
        began = time.monotonic()
        command = server_command(
            installation,
            self.models,
            Ports.free(),
            prepared,
            exit_timeout_secs=0,
            threads=self.threads or None,
        )
        process = await asyncio.create_subprocess_exec(
            *command.argv, env=command.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            await wait_until_live(command.ports.http, _PATIENCE)
            await load_model(command.ports.http, MODEL_NAME, _PATIENCE)
            tensors = await read_tensors(command.ports.http, MODEL_NAME)
            layout = Layout(tensors, end_ids=(), knows_its_ends=True)
            request = layout.request(Generation(prompt=(0,), max_tokens=1), "by-hand")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{command.ports.grpc}") as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                async for answer in stub.ModelStreamInfer(_once(request)):
                    if answer.error_message:
                        raise RuntimeError(f"Triton by hand: {answer.error_message}")
                    return time.monotonic() - began
            raise RuntimeError("Triton by hand gave no token")
        finally:
            process.terminate()
            await process.wait()


async def _once(request: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - tritonclient has no types
    yield request
