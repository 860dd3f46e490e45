"""Waiting for a Triton server and loading its models, over its HTTP port."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

_POLL_SECONDS: Final = 0.05
_ANSWER_SECONDS: Final = 30.0


class ModelLoadError(Exception):
    """Triton could not load the model; the message is what Triton says of it."""


class ServerLostError(ModelLoadError):
    """The server went away while it loaded the model."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output of a model."""

    name: str
    datatype: str
    """As requests name it: `INT32`, `FP32`, `BYTES`, …"""
    shape: tuple[int, ...]
    """With the dimension of the batch, if the model has one; -1 is any size."""


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """What a model takes and gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


async def wait_until_live(http_port: int, timeout_secs: float) -> None:
    """Return once the server answers on 127.0.0.1; it may not have loaded any model yet.

    The server says nothing when its ports are taken: watch the process beside this.

    Raises:
        TimeoutError: it does not answer in time.

    """
    url = f"http://127.0.0.1:{http_port}/v2/health/live"
    async with asyncio.timeout(timeout_secs), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # it does not listen yet
            await asyncio.sleep(_POLL_SECONDS)


async def load_model(http_port: int, name: str, timeout_secs: float) -> None:
    """Load the model `name` and return when it is ready for requests.

    Raises:
        ModelLoadError: it cannot be loaded.
        ServerLostError: the server went away meanwhile.
        TimeoutError: it is not loaded in time.

    """
    url = f"http://127.0.0.1:{http_port}/v2/repository/models/{name}/load"
    timeout = aiohttp.ClientTimeout(total=timeout_secs)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json={}) as response,
        ):
            if response.status == 200:
                return
            raise ModelLoadError(_reason(await response.text()))
    except aiohttp.ClientError as error:
        raise ServerLostError(f"Triton went away while it loaded {name}: {error}") from error


async def read_tensors(http_port: int, name: str) -> ModelTensors:
    """Return the tensors of the model `name`, which is loaded.

    Raises:
        ModelLoadError: Triton does not tell, say because the model is not loaded after all.

    """
    url = f"http://127.0.0.1:{http_port}/v2/models/{name}"
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            text = await response.text()
            if response.status != 200:
                raise ModelLoadError(_reason(text))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ModelLoadError(f"Triton does not say what tensors {name} has: {error}") from error
    model = json.loads(text)
    return ModelTensors(_tensors(model.get("inputs", [])), _tensors(model.get("outputs", [])))


def _tensors(listed: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(each["name"], each["datatype"], tuple(map(int, each["shape"]))) for each in listed
    )


def _reason(text: str) -> str:
    try:
        answer: Any = json.loads(text)
    except ValueError:
        return text
    return str(answer.get("error", text)) if isinstance(answer, dict) else text
