"""A replica's host that vanishes without a word: no packet comes from it any more.

A network of two hosts is made for it, which only root may; for others it is skipped.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from engineshed.gateway.dataplane import fronts

OURS, THEIRS = "10.213.7.1", "10.213.7.2"  # of the two, and of nobody else
FRONT = f"""
import asyncio

async def stall(reader, writer):
    await reader.readuntil(b"{{}}")
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 9\\r\\n\\r\\nhalf")
    await asyncio.Event().wait()

async def main():
    server = await asyncio.start_server(stall, "{THEIRS}", 9000)
    print("up", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def other_host() -> Iterator[str]:
    """Return the namespace of a host, with a front on it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root may make a network, with iproute2")
    name = f"shed{os.getpid()}"
    ours, theirs = f"a{os.getpid()}", f"b{os.getpid()}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace may be made here: {error.stderr!r}")
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("addr", "add", f"{OURS}/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", name, "addr", "add", f"{THEIRS}/30", "dev", theirs)
        ip("-n", name, "link", "set", theirs, "up")
        argv = ["ip", "netns", "exec", name, sys.executable, "-c", FRONT]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as front:
            try:
                assert front.stdout is not None
                assert front.stdout.readline() == b"up\n"
                yield name
            finally:
                front.kill()
    finally:
        # The link first: the other host's kernel goes on for minutes, with what it has not sent.
        subprocess.run(["ip", "link", "del", ours], check=False, capture_output=True, timeout=10)
        ip("netns", "del", name)


async def test_a_stream_from_a_host_that_vanished_breaks(
    other_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "REPLICA_GONE", 4)  # not to wait for long
    client = fronts.Fronts()
    async with asyncio.timeout(40):
        answer = await client.post(f"http://{THEIRS}:9000", "/v1/completions", {}, b"{}")
        assert await answer.read() == b"half"

        await asyncio.to_thread(ip, "-n", other_host, "link", "set", f"b{os.getpid()}", "down")

        with pytest.raises(OSError, match="timed out"):
            await answer.read()
    answer.release()
    client.close()
