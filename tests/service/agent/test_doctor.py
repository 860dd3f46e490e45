"""`python -m engineshed.agent doctor` on hosts as they are, and on hosts that the tests lay out.

No image of NVIDIA's is here: `lay_out_image` makes files with the names that one has, and a
trtllm-build and an interpreter that stand in for the real ones.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from engineshed.agent.asking import ProcessFailedError, ask
from engineshed.agent.doctor.gpus import look_for_traces
from engineshed.agent.doctor.looking import Look
from engineshed.agent.doctor.resources import look_at_space
from engineshed.agent.doctor.software import look_at_toolchain, look_at_triton
from engineshed.agent.domain.doctor.facts import Unseen
from engineshed.triton import installation

STAND_IN_DRIVER = str(Path(__file__).with_name("stand_in_driver"))
STAND_INS = os.pathsep.join((STAND_IN_DRIVER, str(Path(__file__).with_name("stand_in_torch"))))


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with no variable of ours but those that are given."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ENGINESHED_")}
    return subprocess.run(
        [sys.executable, "-m", "engineshed.agent", "doctor", *arguments],
        env={**ours, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def told_by(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all that it said as JSON, and its checks by name."""
    told = json.loads(done.stdout)
    return told, {check["name"]: check for check in told["checks"]}


def with_gpus(*gpus: Mapping[str, object]) -> dict[str, str]:
    return {"PYTHONPATH": STAND_INS, "STAND_IN_GPUS": json.dumps(gpus)}


def test_this_host_would_serve_with_the_torch_and_the_triton_that_it_has(tmp_path: Path) -> None:
    host = {"PYTHONPATH": STAND_IN_DRIVER, "ENGINESHED_STATE_DIR": str(tmp_path)}
    done = doctor(**host, ENGINESHED_SLOTS="3")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "this host would join as `cpu` x3 with the back end torch"
    states = {line.split()[0]: line.split()[1] for line in lines if line.startswith("  ")}
    assert states["tritonserver"] == "ok"
    assert states["PyTorch"] == "ok"
    assert version("torch") in done.stdout
    assert states["trtllm-build"] == "missing"
    assert "nvcr.io/nvidia/tritonserver" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_programs_read_it_as_json() -> None:
    told, checks = told_by(doctor("--json", PYTHONPATH=STAND_INS))

    assert told["can_serve"]
    assert (told["gpu_type"], told["gpu_count"], told["simulated"]) == ("cpu", 1, False)
    assert told["backends"] == ["torch"]
    assert checks["PyTorch"]["found"] == "0.0.0+stand-in, built for CUDA 13.0"
    assert "nvidia-pytriton" in checks["tritonserver"]["found"]


def test_a_simulated_inventory_is_called_so() -> None:
    done = doctor("--json", PYTHONPATH=STAND_INS, ENGINESHED_SIMULATE="h100-sxm:8")
    told, checks = told_by(done)

    assert (told["gpu_type"], told["gpu_count"], told["simulated"]) == ("h100-sxm", 8, True)
    assert checks["GPUs"]["mark"] == "warning"
    assert "simulated `h100-sxm` x8" in told["summary"]


def test_gpus_are_shown_with_their_driver_and_their_links() -> None:
    display = {"uuid": "GPU-display", "name": "NVIDIA T400", "pcie": [], "links": []}
    host = with_gpus({"uuid": "GPU-a"}, {"uuid": "GPU-b", "links": [1, 0]}, display)
    told, checks = told_by(doctor("--json", **host))

    assert (told["gpu_type"], told["gpu_count"]) == ("h200-sxm", 2)
    assert checks["driver"]["found"] == "580.159.04"
    assert checks["GPU 0"]["found"] == "GPU-a, PCIe 5 x16, 18 NVLinks"
    assert checks["GPU 1"]["found"] == "GPU-b, PCIe 5 x16, 1 NVLinks"
    assert checks["GPU 2"]["mark"] == "warning"
    assert checks["PyTorch"]["found"].endswith("sees none of the GPUs")


def test_a_pytorch_that_sees_the_gpus_says_how_many() -> None:
    _, checks = told_by(doctor("--json", **with_gpus({}), STAND_IN_TORCH_DEVICES="1"))

    assert checks["PyTorch"]["mark"] == "ok"
    assert checks["PyTorch"]["found"].endswith("sees 1 GPUs")


def test_a_broken_driver_fails_the_host_and_is_told_in_the_table() -> None:
    done = doctor(**with_gpus({}), STAND_IN_DRIVER_FAULT="NVMLError_LibRmVersionMismatch")

    assert done.returncode == 1
    assert "NVMLError_LibRmVersionMismatch" in done.stdout
    assert "tritonserver" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("this host would not join: ")
    assert done.stderr == ""


def test_a_variable_that_makes_no_sense_is_named() -> None:
    done = doctor(ENGINESHED_SIMULATE="eight")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ENGINESHED_SIMULATE: ")


def test_help_teaches() -> None:
    done = doctor("--help")

    assert done.returncode == 0
    assert "ENGINESHED_SIMULATE" in done.stdout
    assert "exit status" in done.stdout


def test_no_model_library_is_loaded_into_its_own_process() -> None:
    program = (
        "import sys; from engineshed.agent.doctor.command import run_doctor; run_doctor(json=True);"
        "sys.exit(bool({'torch', 'transformers', 'tensorrt', 'pytriton'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": STAND_INS}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=150
    )

    assert done.returncode == 0, done.stderr


def lay_out_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the files of NVIDIA's image that are looked at, below `root`; return its /app."""
    server, venv, app = root / "opt/tritonserver", root / "opt/venv", root / "app"
    for file in (
        server / "TRITON_VERSION",
        server / "backends/python/libtriton_python.so",
        server / "backends/tensorrtllm/libtriton_tensorrtllm.so",
        server / "backends/tensorrtllm/trtllmExecutorWorker",
        app / "examples/models/core/llama/convert_checkpoint.py",
        app / "examples/models/contrib/dbrx/convert_checkpoint.py",
        app / "examples/quantization/quantize.py",
        app / "all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt",
        app / "all_models/llmapi/tensorrt_llm/config.pbtxt",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("2.71.0\n")
    packages = json.dumps({"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48"})
    for program, text in (
        (server / "bin/tritonserver", "#!/bin/sh\n"),
        (venv / "bin/python3", f"#!/bin/sh\necho '{packages}'\n"),
        (venv / "bin/trtllm-build", f"#!{venv}/bin/python3\n"),
        (venv / "bin/mpirun", "#!/bin/sh\n"),
    ):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setattr(installation, "_IMAGE", server)
    monkeypatch.setenv("PATH", str(venv / "bin"), prepend=os.pathsep)
    return app


def test_the_parts_of_an_image_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = lay_out_image(tmp_path, monkeypatch)

    triton, toolchain = look_at_triton(), look_at_toolchain(app)

    assert (triton.version, triton.executable) == ("2.71.0", True)
    assert triton.server == str(tmp_path / "opt/tritonserver/bin/tritonserver")
    assert all((triton.python, triton.tensorrtllm, triton.worker))
    assert toolchain.command == str(tmp_path / "opt/venv/bin/trtllm-build")
    # Its interpreter has them, this one has not.
    assert (toolchain.tensorrt_llm, toolchain.tensorrt) == ("1.2.1", "10.14.1.48")
    assert toolchain.families == ("dbrx", "llama")
    assert all((toolchain.examples, toolchain.quantize, toolchain.template, toolchain.llmapi))
    assert toolchain.mpirun == str(tmp_path / "opt/venv/bin/mpirun")


def test_the_scripts_are_found_where_other_images_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = lay_out_image(tmp_path, monkeypatch)
    (app / "tensorrt_llm").mkdir()
    (app / "examples").rename(app / "tensorrt_llm/examples")

    toolchain = look_at_toolchain(app)

    assert toolchain.examples == str(app / "tensorrt_llm/examples")
    assert toolchain.families == ("dbrx", "llama")


def test_an_image_without_tensorrt_llm_lacks_just_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out_image(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("TRT_VERSION", "10.14.1.48")

    toolchain = look_at_toolchain(tmp_path / "nowhere")

    assert (toolchain.command, toolchain.tensorrt_llm) == ("", "")
    assert toolchain.tensorrt == "10.14.1.48"
    assert (toolchain.examples, toolchain.families, toolchain.llmapi) == ("", (), "")


def test_gpus_without_a_driver_leave_traces(tmp_path: Path) -> None:
    for name, vendor, kind in (
        ("gpu", "0x10de", "0x030200"),
        ("its sound", "0x10de", "0x040300"),
        ("another", "0x1002", "0x030000"),
    ):
        device = tmp_path / "pci" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    kernel = tmp_path / "version"

    assert look_for_traces(kernel, tmp_path / "pci").devices == 1
    assert look_for_traces(kernel, tmp_path / "pci").kernel_driver == ""
    kernel.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release"
    )
    assert look_for_traces(kernel, tmp_path / "pci").kernel_driver == "580.159.04"


def test_the_room_of_a_folder_that_is_not_there_yet_is_that_of_where_it_will_be(
    tmp_path: Path,
) -> None:
    assert look_at_space(tmp_path / "a" / "b").total_bytes == look_at_space(tmp_path).total_bytes
    assert not (tmp_path / "a").exists()


def test_a_look_that_never_ends_is_given_up() -> None:
    never = threading.Event()
    try:
        assert Look(never.wait, seconds=0.01).seen() == Unseen("no answer within 0 s")
    finally:
        never.set()


def test_a_look_that_fails_says_why(tmp_path: Path) -> None:
    seen = Look((tmp_path / "nothing").read_text, seconds=60).seen()

    assert isinstance(seen, Unseen)
    assert "No such file or directory" in seen.reason


def test_a_process_that_does_not_answer_says_why() -> None:
    with pytest.raises(ProcessFailedError, match="RuntimeError: no libcudart"):
        ask([sys.executable, "-c", "raise RuntimeError('no libcudart')"], seconds=60)
    with pytest.raises(ProcessFailedError, match="no answer within"):
        ask([sys.executable, "-c", "import time; time.sleep(600)"], seconds=0.1)
