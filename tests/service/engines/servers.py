"""A real Triton that serves an engine, and asking it."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from engineshed.agent.engines.interface import Runtime
from engineshed.agent.engines.torch.backend import TorchBackend
from engineshed.triton.control import load_model, wait_until_live
from engineshed.triton.engine import MODEL_NAME
from engineshed.triton.infer import infer
from engineshed.triton.installation import Installation, find_triton, prepare_backends
from engineshed.triton.launch import Ports, server_command
from engineshed.triton.streams import Streams

DEADLINE = 60.0
_TYPES = {
    "streaming": ("BOOL", np.bool_),
    "temperature": ("FP32", np.float32),
    "runtime_top_p": ("FP32", np.float32),
    "len_penalty": ("FP32", np.float32),
    "seed": ("UINT64", np.uint64),
    "return_log_probs": ("BOOL", np.bool_),
    "exclude_input_in_output": ("BOOL", np.bool_),
    "stop": ("BOOL", np.bool_),
    "presence_penalty": ("FP32", np.float32),
    "frequency_penalty": ("FP32", np.float32),
    "repetition_penalty": ("FP32", np.float32),
    "embedding_bias": ("FP32", np.float32),
}
_OUTPUTS = {"INT32": np.int32, "FP32": np.float32}
_TEXTS = frozenset(("guided_decoding_guide_type", "guided_decoding_guide"))


@dataclass(frozen=True)
class Server:
    """A running Triton."""

    process: subprocess.Popen[bytes]
    ports: Ports
    log: Path


@contextmanager
def triton(engine: Path, folder: Path) -> Iterator[Server]:
    """Start Triton for an engine, without loading it yet; see that it ends well."""
    # On a CPU the fraction changes nothing; but it is read.
    TorchBackend().render(engine, folder / "repository", Runtime(kv_cache_fraction=0.5))
    with serve(find_triton(), folder) as server:
        yield server


@contextmanager
def serve(
    installation: Installation, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start a Triton for `repository` in a folder, without loading it; see that it ends well."""
    backends = prepare_backends(installation, folder / "backends")
    repository, ports = folder / "repository", Ports.free()
    command = server_command(installation, repository, ports, backends, threads=1, env=env)
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command.argv, env=command.env, stdout=output, stderr=output)
    try:
        asyncio.run(wait_until_live(command.ports.http, DEADLINE))
        yield Server(process, command.ports, log)
        process.terminate()
        assert process.wait(DEADLINE) == 0, log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def load(server: Server) -> None:
    """Load the engine."""
    asyncio.run(load_model(server.ports.http, MODEL_NAME, DEADLINE))


class Client:
    """A caller of one server. Made in the event loop that uses it."""

    def __init__(self, server: Server) -> None:
        self._triton = Streams(server.ports.grpc)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._triton.close()

    def start(
        self, prompt: Sequence[int], new_tokens: int, *, request_id: str = "", **more: Any
    ) -> Any:
        """Return the responses to a request, as an asynchronous generator."""
        values = {
            "input_ids": list(prompt),
            "input_lengths": [len(prompt)],
            "request_output_len": [new_tokens],
            **{
                name: value if isinstance(value, list) else [value]
                for name, value in ({"streaming": True} | more).items()
            },
        }
        request = service_pb2.ModelInferRequest(model_name=MODEL_NAME, id=request_id)
        for name in _TEXTS & values.keys():
            [text] = values.pop(name)
            request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
            request.raw_input_contents.append(len(text).to_bytes(4, "little") + text.encode())
        for name, value in values.items():
            datatype, dtype = _TYPES.get(name, ("INT32", np.int32))
            array = np.array([value], dtype)
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return self._responses(request)

    async def _responses(self, request: Any) -> AsyncGenerator[Any, None]:
        responses: asyncio.Queue[Any] = asyncio.Queue()
        asking = asyncio.create_task(infer(self._triton, request, DEADLINE, responses.put_nowait))
        asking.add_done_callback(lambda _: responses.put_nowait(None))
        try:
            while (response := await responses.get()) is not None:
                yield response
            await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def outputs(
        self, prompt: Sequence[int], new_tokens: int, **more: Any
    ) -> list[dict[str, Any]]:
        """Return the outputs of each response that has any, as arrays by their names."""
        found = []
        async with aclosing(self.start(prompt, new_tokens, **more)) as responses:
            async for response in responses:
                outputs = {
                    output.name: np.frombuffer(raw, _OUTPUTS[output.datatype]).reshape(output.shape)
                    for output, raw in zip(
                        response.outputs, response.raw_output_contents, strict=True
                    )
                }
                if outputs:
                    assert outputs["sequence_length"].tolist() == [[outputs["output_ids"].size]]
                    found.append(outputs)
        return found

    async def pieces(self, prompt: Sequence[int], new_tokens: int, **more: Any) -> list[list[int]]:
        """Return the tokens of each response that has any."""
        found = await self.outputs(prompt, new_tokens, **more)
        return [outputs["output_ids"].ravel().tolist() for outputs in found]

    async def answer(self, prompt: Sequence[int], new_tokens: int, **more: Any) -> list[int]:
        """Return all tokens of an answer."""
        pieces = await self.pieces(prompt, new_tokens, **more)
        return [token for piece in pieces for token in piece]
