import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from engineshed.replica import exchange as module
from engineshed.replica.exchange import Exchange

DEADLINE = 30.0


class Client:
    """The other side of an exchange."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.reads = asyncio.Event()

    def exchange(self) -> Exchange:
        scope = {"method": "POST", "path": "/v1/completions", "headers": []}
        return Exchange(scope, self._receive, self._send)

    async def _receive(self) -> MutableMapping[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await self.reads.wait()


async def test_a_client_is_gone_when_it_leaves() -> None:
    client = Client()
    gone = asyncio.create_task(client.exchange().gone())
    await asyncio.sleep(0)
    assert not gone.done()

    client.left.set()

    async with asyncio.timeout(DEADLINE):
        await gone


async def test_a_client_that_leaves_what_it_is_sent_unread_is_gone_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.01)
    exchange = Client().exchange()
    sending = asyncio.create_task(exchange.begin_stream())

    async with asyncio.timeout(DEADLINE):
        await exchange.gone()

    assert not sending.done()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_a_client_with_nothing_to_read_has_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0)
    client = Client()
    client.reads.set()
    exchange = client.exchange()
    await exchange.begin_stream()

    gone = asyncio.create_task(exchange.gone())
    for _ in range(100):  # it has looked many times by then
        await asyncio.sleep(0)

    assert not gone.done()
    client.left.set()
    async with asyncio.timeout(DEADLINE):
        await gone
