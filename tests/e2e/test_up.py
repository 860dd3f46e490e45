"""`shed up` from start to stop, and again."""

import signal
import subprocess
from pathlib import Path

from tests.e2e.conftest import SAMPLE
from tests.e2e.stack import BIN, Stack, running, start_stack, wait_for


def answers(stack: Stack, key: str) -> bool:
    return stack.chat(key, "What is an engine shed?").is_success


def test_it_stops_within_fifteen_seconds_leaves_nothing_and_comes_back_as_it_was(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "state"
    with running(directory) as stack:
        endpoint = stack.deploy(stack.register(SAMPLE)["checkpoint_id"])
        before = stack.chat(endpoint["routing_key"], "What is an engine shed?").json()
        token = stack.token

        seconds = stack.stop()

        assert seconds < 15
        assert stack.processes() == []
    assert (directory / "admin.token").stat().st_mode & 0o777 == 0o600

    with running(directory) as stack:
        assert stack.token == token
        stack.until(endpoint["endpoint_id"], "running")  # which must not be what was true before
        after = stack.chat(endpoint["routing_key"], "What is an engine shed?").json()
        assert after["choices"] == before["choices"]
        assert after["system_fingerprint"] == before["system_fingerprint"]


def test_a_killed_stack_can_be_started_again_and_its_replicas_go_on(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with running(directory) as stack:
        endpoint = stack.deploy(stack.register(SAMPLE)["checkpoint_id"])
        (triton,) = stack.tritons()
        stack.process.send_signal(signal.SIGKILL)
        stack.process.wait()
        services = ("catalog", "scheduler", "agent", "gateway")
        wait_for(
            "the services to end with it",
            lambda: (
                not any(
                    f"engineshed.{name}" in process.cmdline()
                    for process in stack.processes()
                    for name in services
                )
            ),
        )

        again = start_stack(directory, port=stack.port)
        try:
            wait_for("an answer", lambda: answers(again, endpoint["routing_key"]))
            assert [process.pid for process in again.tritons()] == [triton.pid]
        finally:
            again.stop()


def test_two_stacks_run_side_by_side_but_not_in_one_directory(tmp_path: Path) -> None:
    with (
        running(tmp_path / "one") as one,
        running(tmp_path / "two", "--simulate", "h100-sxm:8") as two,
    ):
        (node,) = two.get("/v0/nodes")["data"]
        assert (node["gpu_type"], node["gpu_count"], node["simulated"]) == ("h100-sxm", 8, True)
        (node,) = one.get("/v0/nodes")["data"]
        assert (node["gpu_type"], node["gpu_count"], node["simulated"]) == ("cpu", 4, False)

        second = subprocess.run(
            [BIN / "shed", "up", "--state-dir", one.directory, "--http-port", "1"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert second.returncode == 1
        assert "already runs" in second.stderr
        taken = subprocess.run(
            [BIN / "shed", "up", "--state-dir", tmp_path / "three", "--http-port", str(one.port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert taken.returncode == 1
        assert "is taken" in taken.stderr
