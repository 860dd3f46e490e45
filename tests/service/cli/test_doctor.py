"""`shed agent doctor` on this host, with stand-ins for the driver and for PyTorch."""

import json
import os
import subprocess

import pytest
from tests.service.agent.test_doctor import STAND_INS
from tests.service.cli.stand_in import SHED


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it without any platform that it could ask."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ENGINESHED_")}
    return subprocess.run(
        [SHED, "agent", "doctor", *arguments],
        env={**ours, "PYTHONPATH": STAND_INS, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_it_says_what_this_host_would_offer_with_shed_up() -> None:
    done = doctor()

    assert done.returncode == 0, done.stderr
    assert "tritonserver" in done.stdout
    assert "trtllm-build" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "this host would join as `cpu` x4 with the back end torch"
    )


@pytest.mark.parametrize("options", [("--json",), ("-o", "json")])
def test_programs_get_the_agents_json(options: tuple[str, ...]) -> None:
    told = json.loads(doctor(*options, ENGINESHED_SIMULATE="h100-sxm:8").stdout)

    assert (told["gpu_type"], told["gpu_count"], told["simulated"]) == ("h100-sxm", 8, True)


def test_a_host_that_cannot_serve_ends_with_1() -> None:
    fault = {"STAND_IN_GPUS": "[{}]", "STAND_IN_DRIVER_FAULT": "NVMLError_LibRmVersionMismatch"}

    assert doctor(**fault).returncode == 1


def test_a_variable_that_makes_no_sense_is_refused_by_the_agent() -> None:
    done = doctor(ENGINESHED_SLOTS="none")

    assert done.returncode == 2
    assert "ENGINESHED_SLOTS" in done.stderr


def test_help_teaches() -> None:
    done = doctor("--help")

    assert done.returncode == 0
    assert "exit status" in done.stdout
