"""`shed` as a process, and a platform that answers what it is told."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHED = Path(sys.executable).with_name("shed")


class Platform(ThreadingHTTPServer):
    """Answers every request with `status` and `body`, and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.body: Any = {"data": [], "next_page_token": ""}
        self.asked: list[tuple[str, str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Platform

    def do_GET(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append((self.command, self.path, json.loads(data) if data else None))
        body = self.server.body
        answer = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        return


def shed(
    platform: Platform, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    address = f"http://127.0.0.1:{platform.server_port}"
    given = {"ENGINESHED_URL": address, "ENGINESHED_TOKEN": "es_x", **environment}
    return subprocess.run(
        [SHED, *arguments],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that says what was wrong."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line
