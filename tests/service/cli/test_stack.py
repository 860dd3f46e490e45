"""The parts of `shed up`: its ports, and who keeps its processes running."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engineshed.cli.stack import supervisor
from engineshed.cli.stack.layout import Layout
from engineshed.cli.stack.options import StackOptions
from engineshed.cli.stack.programs import Program, programs
from engineshed.cli.stack.rotation import set_aside
from engineshed.cli.stack.supervisor import Supervisor


def test_no_service_gets_the_gateways_port_or_anothers(tmp_path) -> None:
    layout = Layout(tmp_path)
    first = layout.ports(gateway=8080)
    assert len(set(first.values())) == len(first) == 6

    assert layout.ports(gateway=8080) == first
    again = layout.ports(gateway=first["nats"])
    assert first["nats"] not in again.values()


def test_a_port_that_was_taken_meanwhile_is_replaced(tmp_path) -> None:
    layout = Layout(tmp_path)
    first = layout.ports(gateway=8080)
    with socket.create_server(("127.0.0.1", first["catalog"])):
        again = layout.ports(gateway=8080)
    assert again["catalog"] != first["catalog"]
    assert again["nats"] == first["nats"]


async def test_a_program_that_cannot_be_started_is_tried_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST", 0.01)
    layout = Layout(tmp_path)  # without its folder for logs
    told: list[str] = []
    stop = asyncio.Event()

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 1:
            layout.logs.mkdir()
        else:
            stop.set()

    program = Program("nats", [sys.executable, "-c", "print('started')"], {})
    async with asyncio.timeout(30):
        await Supervisor(layout, [program], tell).run(stop)

    assert "cannot be started" in told[0]
    assert "status 0" in told[1]
    assert "started" in (layout.logs / "nats.log").read_text()


async def test_the_log_of_a_program_that_goes_on_stays_short_and_whole(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10_000)
    monkeypatch.setattr(supervisor, "LOG_LOOK_SECONDS", 0.01)
    layout = Layout(tmp_path)
    layout.logs.mkdir()
    log, before = layout.logs / "nats.log", layout.logs / "nats.log.1"
    talkative = (
        "import itertools, time\n"
        "for number in itertools.count(): print(f'{number:099}', flush=True); time.sleep(0.0001)"
    )
    told: list[str] = []
    stop = asyncio.Event()
    program = Program("nats", [sys.executable, "-c", talkative], {})
    running = asyncio.create_task(Supervisor(layout, [program], told.append).run(stop))
    async with asyncio.timeout(30):
        while not before.exists():
            await asyncio.sleep(0.01)
        first = before.stat().st_mtime_ns
        while before.stat().st_mtime_ns == first:  # it was set aside again: the program went on
            await asyncio.sleep(0.01)
        stop.set()
        await running

    assert told == []
    assert b"\0" not in log.read_bytes()
    if not cuts(tmp_path):
        pytest.skip("this file system cannot cut off the beginning of files")
    _, *numbers = map(int, (before.read_bytes() + log.read_bytes()).split())
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert log.stat().st_size < 100_000


def cuts(folder: Path) -> bool:
    """Tell whether the beginning of a file can be cut off there."""
    log, before = folder / "cut.log", folder / "cut.log.1"
    log.write_bytes(b"x" * 10_000)
    set_aside(log, before)
    return log.stat().st_size > 0


def test_a_stack_with_templates_that_make_no_sense_is_not_started(tmp_path) -> None:
    templates = tmp_path / "templates.yaml"
    templates.write_text("templates: [{model_name: acme/bot, flavors: []}]")
    shed = [sys.executable, "-m", "engineshed.cli", "up", "--templates", str(templates)]
    done = subprocess.run(
        [*shed, "--state-dir", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "templates[0].flavors: " in done.stderr
    assert not (tmp_path / "state").exists()


def test_the_catalog_is_told_where_the_templates_are(tmp_path) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    options = StackOptions("127.0.0.1", 8080, "local", 1, "", tmp_path / "templates.yaml")
    environments = {one.name: one.environment for one in programs(layout, options)}
    assert environments["catalog"]["ENGINESHED_TEMPLATES"] == str(tmp_path / "templates.yaml")
