"""Waiting for a Triton server and loading its models, over its HTTP port."""

import asyncio
import json
from typing import Any, Final

import aiohttp

_POLL_SECONDS: Final = 0.05


class ModelLoadError(Exception):
    """Triton could not load the model; the message is what Triton says of it."""


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
        ModelLoadError: it cannot be loaded, or the server went away meanwhile.
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
        raise ModelLoadError(f"Triton went away while it loaded {name}: {error}") from error


def _reason(text: str) -> str:
    try:
        answer: Any = json.loads(text)
    except ValueError:
        return text
    return str(answer.get("error", text)) if isinstance(answer, dict) else text
