"""GET /metrics of a process that serves no HTTP else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from tests.metrics import sample

from engineshed.runtime import CommonSettings
from engineshed.telemetry import Exposition, gauge, serve_metrics

TOKEN = "mt_of-the-tests"


class Trains(Collector):
    here = 0

    def collect(self) -> Iterator[Metric]:
        yield gauge("trains", "In the shed.", self.here)


def listening(address: str, token_file: Path | None) -> CommonSettings:
    return CommonSettings.model_construct(metrics_listen=address, metrics_token_file=token_file)


@pytest.fixture
def trains() -> Trains:
    return Trains()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
async def address(trains: Trains, token_file: Path) -> AsyncIterator[str]:
    settings = listening("127.0.0.1:0", token_file)
    async with serve_metrics(settings, Exposition("shed", trains)) as address:
        yield address


async def get(address: str, token: str | None = TOKEN, path: str = "/metrics", **kwargs):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(kwargs.pop("method", "GET"), f"http://{address}{path}") as reply,
    ):
        return reply.status, await reply.text()


async def test_each_answer_tells_what_is_now(address: str, trains: Trains) -> None:
    status, text = await get(address)
    assert (status, sample(text, "trains")) == (200, 0)

    trains.here = 3

    assert sample((await get(address))[1], "trains") == 3


async def test_the_process_and_its_release_are_told_too(address: str) -> None:
    _, text = await get(address)
    assert sample(text, "process_resident_memory_bytes") > 0
    assert sample(text, "engineshed_build_info", service="shed") == 1


@pytest.mark.parametrize("token", [None, "", "mt_of-the-test", TOKEN + "x"])
async def test_nobody_without_the_token_is_told_anything(address: str, token: str | None) -> None:
    status, text = await get(address, token)
    assert status == 401
    assert "trains" not in text


async def test_there_is_nothing_else(address: str) -> None:
    assert (await get(address, path="/"))[0] == 404
    assert (await get(address, method="POST"))[0] == 405


async def test_what_is_no_http_is_hung_up_on(address: str) -> None:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"x" * 20_000)
    assert await reader.read() == b""
    writer.close()
    assert (await get(address))[0] == 200


async def test_without_a_token_it_does_not_start(trains: Trains, tmp_path: Path) -> None:
    empty = tmp_path / "empty.token"
    empty.touch()
    for file in (None, empty):
        with pytest.raises(ValueError, match="ENGINESHED_METRICS_TOKEN_FILE"):
            async with serve_metrics(listening("127.0.0.1:0", file), Exposition("shed", trains)):
                pass


async def test_without_an_address_there_is_none(trains: Trains) -> None:
    async with serve_metrics(listening("", None), Exposition("shed", trains)) as address:
        assert address == ""
