import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.standins.tensorrt_llm import StandInImage, make_image

from engineshed.triton.engine import MODEL_NAME

from .fronts import Front, write_echo_engine

Start = Callable[..., Awaitable[Front]]


@pytest.fixture(scope="package")
def echo_engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An engine that says what its prompt says, and its model repository."""
    return write_echo_engine(tmp_path_factory.mktemp("echo"))


@pytest.fixture(scope="package")
def image(tmp_path_factory: pytest.TempPathFactory) -> StandInImage:
    """The stand-in for NVIDIA's image."""
    return make_image(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture
def orders(image: StandInImage) -> Iterator[StandInImage]:
    """The image, to give orders that are taken back after the test."""
    yield image
    (image.folder / "orders.json").unlink(missing_ok=True)


@pytest.fixture
def open_gate(echo_engine: tuple[Path, Path]) -> Iterator[Callable[[], None]]:
    """Lets go on what waits in the echo engine because its prompt has [gate]."""
    file = echo_engine[1] / MODEL_NAME / "1" / "gate"
    yield file.touch
    file.unlink(missing_ok=True)


@pytest.fixture
async def start(tmp_path: Path, echo_engine: tuple[Path, Path]) -> AsyncIterator[Start]:
    """Starts fronts that end with the test; with the echo engine, if no other is named."""
    fronts: list[Front] = []
    async with aiohttp.ClientSession() as session:

        async def begin(engine: tuple[Path, Path] = echo_engine, **fields: Any) -> Front:
            front = Front.start(tmp_path / f"replica{len(fronts)}", *engine, **fields)
            front.session = session
            fronts.append(front)
            return front

        yield begin
    for front in fronts:
        await front.end()


@pytest.fixture(scope="package")
def running(
    tmp_path_factory: pytest.TempPathFactory, echo_engine: tuple[Path, Path]
) -> Iterator[Front]:
    """A front with the echo engine, for all tests that leave it as it was."""
    front = Front.start(tmp_path_factory.mktemp("running"), *echo_engine, max_requests=8)
    asyncio.run(front.ready())
    yield front
    asyncio.run(front.end())


@pytest.fixture
async def front(running: Front) -> AsyncIterator[Front]:
    """The running front, with connections of this test's own."""
    async with aiohttp.ClientSession() as session:
        running.session = session
        await running.in_flight(0)
        yield running
        await running.in_flight(0)
