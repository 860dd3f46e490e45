"""One gateway process beside a bare pass-through and beside LiteLLM's proxy.

The gateway is the real one, with its broker, a route and a token: it authenticates, routes, counts
what is in flight and logs. All three have the same upstream, which answers at once. Rounds of the
pass-through and of the gateway take turns, and their medians are compared.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from benchmarks.harness import (
    Figure,
    Report,
    Target,
    child,
    cpu_seconds,
    free_port,
    peer,
    percentile,
    python_module,
    until_listening,
)
from benchmarks.parts.load import Kind, Load, Seen, measured
from benchmarks.parts.upstream import EVENTS, GAP

from engineshed.api.catalog.v1.token_service_pb2 import TokenGrant
from engineshed.api.scheduler.v1.route_pb2 import Route, RouteReplica
from engineshed.auth import hash_token, new_secret
from engineshed.bus import ROUTES, TOKENS, Bucket, Bus, BusUnavailableError, KeyValueOwner
from engineshed.bus.embedded import command, write_config
from engineshed.bus.kv import M
from engineshed.runtime import configure_logging

BARE: Final = "bare"
PEER: Final = "LiteLLM"
STREAM_SECONDS: Final = EVENTS * GAP
PATIENCE_SECONDS: Final = 20.0

Numbers: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers inference requests."""

    port: int
    pid: int
    token: str = ""

    def under(
        self, kind: Kind, connections: int, *, seconds: float = 0.0, spread: float = 0.0
    ) -> tuple[Seen, float]:
        """Put load on it; return what was seen and the CPU time that it used."""
        load = Load(self.port, self.token, kind, connections, seconds, spread)
        return measured(load, partial(cpu_seconds, self.pid))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    parser.add_argument("--no-peer", action="store_true", help=f"leave {PEER} out")
    arguments = parser.parse_args()
    configure_logging("benchmark", "warning")
    report = Report("gateway")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(_listening("benchmarks.parts.upstream"))
        url = f"http://127.0.0.1:{upstream.port}"
        bare = stack.enter_context(_listening("benchmarks.parts.passthrough", url))
        ours = stack.enter_context(_gateway(folder, url))
        rounds = [(_round(bare), _round(ours)) for _ in range(arguments.rounds)]
        limit, own = _medians([one[0] for one in rounds]), _medians([one[1] for one in rounds])
        report.add(*_beside_bare(own, limit))
        if arguments.no_peer or peer("litellm") is None:
            report.note(f"{PEER} was left out (make bench installs it): no figures beside it")
        else:
            slow = stack.enter_context(_litellm(folder, url))
            turns = [(_slow_round(slow), _slow_round(ours)) for _ in range(2)]
            report.add(
                *_beside_peer(*(_medians([turn[side] for turn in turns]) for side in (1, 0)))
            )
    report.finish()


def _beside_bare(own: Numbers, limit: Numbers) -> Iterator[Figure]:
    for key, name, unit, target in (
        ("requests", "plain, 16 at once", "req/s", Target("at least", 0.6)),
        ("alone", "plain, one at a time, p50", "ms", None),
        ("events", "unpaced streams, 16 at once", "events/s", Target("at least", 0.8)),
        ("cpu", "64 paced streams, CPU of the gateway", "µs/event", Target("at most", 1.3)),
        ("first", "64 paced streams, first token, p50", "ms", Target("at most", 1, "difference")),
        ("burst", "64 streams begun together, first token, p50", "ms", None),
    ):
        yield Figure(name, own[key], unit, BARE, limit[key], target)


def _beside_peer(own: Numbers, theirs: Numbers) -> Iterator[Figure]:
    for key, name, unit, target in (
        ("requests", "plain, 16 at once", "req/s", Target("at least", 40)),
        ("cpu", "64 paced streams, CPU of the gateway", "µs/event", Target("at most", 1 / 15)),
    ):
        yield Figure(name, own[key], unit, PEER, theirs[key], target)


def _round(server: Server) -> Numbers:
    """Measure a server once."""
    plain, _ = server.under("plain", 16, seconds=2)
    alone, _ = server.under("plain", 1, seconds=1)
    stream, _ = server.under("unpaced", 16, seconds=2)
    paced, used = server.under("paced", 64, seconds=2, spread=STREAM_SECONDS)
    burst, _ = server.under("paced", 64)
    return {
        "requests": plain.answers / plain.seconds,
        "alone": percentile(alone.whole, 50) * 1e3,
        "events": stream.events / stream.seconds,
        "cpu": used / paced.events * 1e6,
        "first": percentile(paced.first, 50) * 1e3,
        "burst": percentile(burst.first, 50) * 1e3,
    }


def _slow_round(server: Server) -> Numbers:
    """Measure a server that may be far too slow for the pace of 64 streams."""
    plain, _ = server.under("plain", 16, seconds=5)
    paced, used = server.under("paced", 64, spread=STREAM_SECONDS)
    return {"requests": plain.answers / plain.seconds, "cpu": used / paced.events * 1e6}


def _medians(rounds: list[Numbers]) -> Numbers:
    return {key: median(one[key] for one in rounds) for key in rounds[0]}


@contextmanager
def _listening(module: str, *arguments: str) -> Iterator[Server]:
    """Run one of our parts, which takes its port first."""
    port = free_port()
    with child(python_module(module, str(port), *arguments)) as process:
        until_listening(port, process)
        yield Server(port, process.pid)


@contextmanager
def _gateway(folder: Path, upstream: str) -> Iterator[Server]:
    """Run the gateway with its broker, a route to `upstream` and a token for it."""
    broker_port, port, secret = free_port(), free_port(), new_secret()
    urls = write_config(folder, broker_port).urls
    (folder / "services.json").write_text("{}")
    (folder / "service.token").write_text(new_secret("svc"))
    env = {
        "ENGINESHED_STATE_DIR": str(folder),
        "ENGINESHED_NATS_URL": urls["gateway"],
        "ENGINESHED_SERVICE_TOKEN_FILE": str(folder / "service.token"),
        "ENGINESHED_SERVICES_FILE": str(folder / "services.json"),
        "ENGINESHED_HTTP_PORT": str(port),
        "ENGINESHED_PUBLIC_HOST": f"localhost:{port}",
    }
    with child(command(folder), log=folder / "nats.log") as broker:
        until_listening(broker_port, broker)
        asyncio.run(_fill_buckets(urls, upstream, secret))
        argv = python_module("engineshed.gateway")
        with child(argv, env=env, log=folder / "gateway.log") as process:
            until_listening(port, process)
            yield Server(port, process.pid, secret)


async def _fill_buckets(urls: Mapping[str, str], upstream: str, secret: str) -> None:
    """Be the scheduler and the catalog for as long as it takes."""
    replica = RouteReplica(replica_id="rep_1", url=upstream, secret="replica-secret")  # noqa: S106
    route = Route(
        routing_key="bench",
        endpoint_id="ep_1",
        org_id="org_1",
        region="local",
        status="running",
        ever_ready=True,
        replicas=[replica],
        term=1,
        generation=1,
    )
    grant = TokenGrant(
        token_id="tok_1",  # noqa: S106
        org_id="org_1",
        scopes=["inference"],
        term=1,
        generation=1,
    )
    await _own(urls["scheduler"], "scheduler", ROUTES, "bench", route)
    await _own(urls["catalog"], "catalog", TOKENS, hash_token(secret), grant)


async def _own(url: str, name: str, bucket: Bucket[M], key: str, entry: M) -> None:
    """Make the bucket hold the entry."""

    async def entries() -> Mapping[str, M]:
        return {key: entry}

    bus = await Bus.connect(url, name=name, inbox_prefix=f"_INBOX_{name}")
    owner = KeyValueOwner(bus, bucket, entries)
    writing = asyncio.create_task(owner.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await owner.put(key, entry)
                break
            except BusUnavailableError:
                await asyncio.sleep(0.1)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await bus.close()


@contextmanager
def _litellm(folder: Path, upstream: str) -> Iterator[Server]:
    """Run the peer as its documentation has it for production, with one worker, as we have one."""
    port, key = free_port(), "sk-bench"
    model = {"model": "openai/bench", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "bench", "litellm_params": model}],
        "litellm_settings": {"set_verbose": False, "json_logs": True},
        "general_settings": {"master_key": key},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))  # which is YAML too
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # asks nobody for prices at its start
    }
    program = peer("litellm")
    assert program is not None
    argv: list[str | Path] = [program, "--config", path, "--host", "127.0.0.1", "--port", str(port)]
    with child(argv, env=env, log=folder / "litellm.log", cwd=folder) as process:
        until_listening(port, process)
        yield Server(port, process.pid, key)


if __name__ == "__main__":
    main()
