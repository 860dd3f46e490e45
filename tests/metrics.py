"""Reading metrics: from a collector, or from what a process answers."""

import socket
from collections.abc import Iterable
from pathlib import Path

import aiohttp
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

TOKEN = "metrics_of-the-tests"


def sample(source: Collector | str, name: str, **labels: str) -> float:
    """Return the sum of the samples of this name that have these labels; 0: there is none."""
    return sum(
        one.value
        for family in _families(source)
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    )


def names(text: str) -> set[str]:
    """Return the names of all metrics in Prometheus' text, as one asks for them."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text)
    }


def _families(source: Collector | str) -> Iterable[Metric]:
    if isinstance(source, str):
        return text_string_to_metric_families(source)
    return source.collect()


def listening(directory: Path) -> dict[str, str]:
    """Return the settings of a process that shall serve metrics; its token is in `directory`."""
    token_file = directory / "metrics.token"
    token_file.write_text(TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return {
        "ENGINESHED_METRICS_LISTEN": f"127.0.0.1:{port}",
        "ENGINESHED_METRICS_TOKEN_FILE": str(token_file),
    }


async def scrape(address: str, token: str = TOKEN) -> str:
    """Return the metrics that a process serves at `address`, for the right token."""
    headers = {"authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(20)) as session,
        session.get(f"http://{address}/metrics") as reply,
    ):
        reply.raise_for_status()
        return await reply.text()


async def is_refused(address: str) -> bool:
    """Tell whether a process serves its metrics to holders of its token alone."""
    try:
        await scrape(address, "another")
    except aiohttp.ClientResponseError as error:
        return error.status == 401
    return False
