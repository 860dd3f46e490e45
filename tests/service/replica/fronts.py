"""A replica's front as a real process with a real Triton, and what tests ask of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from google.protobuf import json_format
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engineshed.api.replica.v1.replica_service_pb2 import Phase, ReplicaSpec, ReplicaState
from engineshed.api.replica.v1.replica_service_pb2_grpc import ReplicaServiceStub
from engineshed.processes import ProcessIdentity, family, wait_until_gone
from engineshed.triton.engine import MODEL_NAME, EngineManifest

DEADLINE = 90.0
SECRET = "the-replica's-secret"
KEY = "echo-x7f3q2"
END_ID = 256
USER_ID = 257
ASSISTANT_ID = 258
MAX_CONTEXT = 400
ECHO = Path(__file__).with_name("echo_model.py")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('a system message must come first') }}{% endif %}"
    "<|user|>{{ message.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MANIFEST = EngineManifest(
    backend="torch",
    engine_kind="pytorch",
    checkpoint_digest="sha256:00",
    architecture="Echo",
    parameter_count=0,
    dtype="float32",
    quantization=None,
    vocab_size=270,
    max_context=MAX_CONTEXT,
    max_concurrent=4,
    eos_token_ids=(END_ID,),
    hardware="cpu",
    decoding="continuous",
    attention="none",
    tokenizer="tokenizer",
)


def byte_tokenizer(*, chat_template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer whose ids below 256 are bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    vocab = {chr(byte): byte for byte in printable}
    vocab |= {chr(256 + number): byte for number, byte in enumerate(others)}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    backend.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    tokenizer.chat_template = chat_template
    return tokenizer


def write_echo_engine(
    folder: Path,
    manifest: EngineManifest = MANIFEST,
    *,
    chat: bool = True,
    load_error: str = "",
    program: Path = ECHO,
) -> tuple[Path, Path]:
    """Write an engine that echoes, and the model repository that serves it; return both.

    Another `program` does something else with the same tensors.
    """
    engine = folder / "engine"
    tokenizer = byte_tokenizer(chat_template=CHAT_TEMPLATE if chat else None)
    tokenizer.save_pretrained(engine / "tokenizer")
    manifest.sealed({}).write(engine)
    repository = folder / "repository"
    model = repository / MODEL_NAME / "1"
    model.mkdir(parents=True)
    (model / "model.py").write_text(program.read_text())
    scalars = {"input_lengths": "INT32", "request_output_len": "INT32", "streaming": "BOOL"}
    scalars |= {"end_id": "INT32", "runtime_top_k": "INT32", "runtime_top_p": "FP32"}
    scalars |= {"temperature": "FP32", "seed": "UINT64"}
    inputs = ['{ name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] }']
    inputs += [
        f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ 1 ] '
        "reshape: { shape: [ ] } optional: true }"
        for name, kind in scalars.items()
    ]
    parameters = {"max_concurrent": str(manifest.max_concurrent)}
    if load_error:
        parameters["load_error"] = load_error
    (model.parent / "config.pbtxt").write_text(
        f'name: "{MODEL_NAME}" backend: "python" max_batch_size: 1\n'
        "model_transaction_policy { decoupled: true }\n"
        f"input [ {', '.join(inputs)} ]\n"
        'output [ { name: "output_ids" data_type: TYPE_INT32 dims: [ -1, -1 ] },\n'
        '  { name: "sequence_length" data_type: TYPE_INT32 dims: [ -1 ] } ]\n'
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        + "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
            for key, value in parameters.items()
        )
    )
    return engine, repository


class Front:
    """A replica's front."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.process = process
        self.session: aiohttp.ClientSession

    @classmethod
    def start(
        cls,
        directory: Path,
        engine: Path,
        repository: Path,
        *,
        environment: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> "Front":
        """Start one; `environment` is added to its own."""
        directory.mkdir(exist_ok=True)
        spec = ReplicaSpec(
            replica_id="rep_01",
            endpoint_id="ep_01",
            routing_key=KEY,
            secret=SECRET,
            engine_directory=str(engine),
            model_repository=str(repository),
            **{"triton_directory": str(engine.parent / "triton"), **fields},
        )
        (directory / "spec.json").write_text(json_format.MessageToJson(spec))
        with (directory / "front.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "engineshed.replica", "--directory", str(directory)],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        return cls(directory, process)

    @property
    def state(self) -> ReplicaState:
        file = self.directory / "status.json"
        if not file.exists():
            return ReplicaState()
        return json_format.Parse(file.read_text(), ReplicaState())

    @property
    def log(self) -> str:
        return (self.directory / "front.log").read_text()

    async def reaches(self, *phases: "Phase.ValueType") -> ReplicaState:
        async with asyncio.timeout(DEADLINE):
            while self.state.phase not in phases:
                await asyncio.sleep(0.02)
        return self.state

    async def ready(self) -> "Front":
        state = await self.reaches(Phase.PHASE_READY, Phase.PHASE_FAILED)
        assert state.phase == Phase.PHASE_READY, f"{state.code}: {state.reason}\n{self.log}"
        return self

    async def exits(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.to_thread(self.process.wait)

    async def end(self) -> None:
        """End it the hard way, if it has not ended."""
        everyone = self.family()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            await self.exits()
        assert await wait_until_gone(everyone, DEADLINE), "something outlived the front"

    def family(self) -> frozenset[ProcessIdentity]:
        """The front, its Triton, and what that started."""
        state = self.state
        if not state.pid:
            return frozenset()
        return family(ProcessIdentity(state.pid, state.process_start, state.boot_id))

    def signal_triton(self, number: signal.Signals) -> None:
        os.kill(self.state.triton_pid, number)

    @asynccontextmanager
    async def post(
        self, path: str, body: Any, **kwargs: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"authorization": f"Bearer {SECRET}", **kwargs.pop("headers", {})}
        url = self.state.http_url + path
        async with self.session.post(url, data=data, headers=headers, **kwargs) as response:
            yield response

    @asynccontextmanager
    async def get(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"authorization": f"Bearer {SECRET}"}
        async with self.session.get(self.state.http_url + path, headers=headers) as response:
            yield response

    async def complete(self, prompt: Any, **fields: Any) -> Any:
        """The whole body of a completion."""
        async with self.post("/v1/completions", {"prompt": prompt, **fields}) as response:
            body = await response.json()
            assert response.status == 200, body
            return body

    async def stream(self, prompt: Any, **fields: Any) -> "list[Any]":
        """The events of a streamed completion; the last one is None if it was [DONE]."""
        body = {"prompt": prompt, "stream": True, **fields}
        async with self.post("/v1/completions", body) as response:
            assert response.status == 200, await response.text()
            return [event async for event in events(response)]

    @asynccontextmanager
    async def streaming(self, prompt: Any, **fields: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """The events of a streamed completion that has begun: the first one is past."""
        body = {"prompt": prompt, "stream": True, **fields}
        async with self.post("/v1/completions", body) as response:
            assert response.status == 200, await response.text()
            stream = events(response)
            await anext(stream)
            yield stream

    async def refusal(self, path: str, body: Any, **kwargs: Any) -> tuple[int, Any]:
        """The status and the error of a request that is refused."""
        async with self.post(path, body, **kwargs) as response:
            answer = await response.json()
            return response.status, answer["error"]

    async def metric(self, name: str) -> float:
        async with self.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))

    async def in_flight(self, count: int) -> None:
        """Return when exactly so many requests are in flight."""
        async with asyncio.timeout(DEADLINE):
            name = "engineshed_replica_requests_in_flight"
            while await self.metric(name) != count:
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def control(self, secret: str = SECRET) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(self.state.control_address) as channel:
            yield Authorized(ReplicaServiceStub(channel), secret)


class Authorized:
    """A stub whose calls bring the secret."""

    def __init__(self, stub: Any, secret: str) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {secret}"),)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        return lambda request: method(request, metadata=self._metadata, timeout=10)


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The server-sent events of a response; None is [DONE]."""
    async for line in response.content:
        if line.startswith(b"data: "):
            data = line.removeprefix(b"data: ").strip()
            yield None if data == b"[DONE]" else json.loads(data)


def text_of(chunks: list[Any], index: int = 0) -> str:
    """The text of one choice of a stream."""
    return "".join(
        choice["text"]
        for chunk in chunks
        if chunk
        for choice in chunk["choices"]
        if choice["index"] == index
    )


def few(manifest: EngineManifest, **changes: Any) -> EngineManifest:
    """The manifest with changes."""
    return replace(manifest, **changes)


def is_deaf_to(number: signal.Signals, pid: int) -> bool:
    """Tell whether a process blocks a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    blocked = next(line.split()[1] for line in lines if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (number - 1) & 1)
