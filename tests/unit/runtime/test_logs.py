"""Log lines, as a process writes them."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, structlog
from engineshed.runtime import configure_logging
configure_logging("gateway")
log = structlog.get_logger()
log.info("ours", number=1, odd=object)
log.debug("too fine")
logging.getLogger("library").warning("theirs %d", 2)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
print("went on", file=__import__("sys").stderr)
"""


def run(output: Path) -> str:
    with output.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=file, stderr=subprocess.PIPE, text=True
        )
    return done.stderr


def test_all_lines_are_json_whoever_logs(tmp_path: Path) -> None:
    run(tmp_path / "log")

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]

    assert [line["event"] for line in lines] == ["ours", "theirs 2", "failed"]
    assert {line["service"] for line in lines} == {"gateway"}
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert (lines[0]["number"], lines[0]["odd"]) == (1, "<class 'object'>")
    assert "ZeroDivisionError" in lines[2]["exception"]


def test_a_full_disk_costs_lines_and_not_the_work() -> None:
    assert "went on" in run(Path("/dev/full"))
