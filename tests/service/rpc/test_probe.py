"""The health check of containers, as a container runs it."""

import asyncio
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest


async def probe(where: str) -> tuple[int, str]:
    """Return the exit status, and what was said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "engineshed.rpc.probe",
        env={**os.environ, "ENGINESHED_PROBE": where},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_server_that_serves_is_well_without_a_token(served) -> None:
    address, _ = served
    assert await probe(f"grpc://catalog@{address}") == (0, "")


async def test_a_server_that_is_not_there_is_not_well() -> None:
    status, said = await probe("grpc://catalog@127.0.0.1:1")
    assert status == 1
    assert "UNAVAILABLE" in said


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("answer", "expected"), [(200, 0), (401, 0), (503, 1)])
async def test_who_answers_over_http_is_well_unless_it_says_otherwise(
    answer: int, expected: int
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        status, _ = await probe(f"http://127.0.0.1:{server.server_port}/{answer}")
        server.shutdown()

    assert status == expected
