"""Starting Triton: finding it, and ending with whoever started it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from engineshed.processes import on_a_leash
from engineshed.triton.installation import Installation, find_triton, prepare_backends
from engineshed.triton.launch import (
    MpiNotFoundError,
    Ports,
    Style,
    engine_environment,
    server_command,
)

from .servers import DEADLINE

_KEEPER = """
import subprocess, sys
from engineshed.processes import on_a_leash
child = subprocess.Popen(on_a_leash(["sleep", "600"]))
print(child.pid, flush=True)
child.wait()
"""

_SERVING_KEEPER = """
import json, sys, time
from pathlib import Path
from tests.service.engines.servers import load, triton
with triton(Path(sys.argv[1]), Path(sys.argv[2])) as server:
    load(server)
    print(server.process.pid, flush=True)
    time.sleep(600)
"""


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=DEADLINE)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_program_on_a_leash_dies_with_its_parent() -> None:
    keeper = subprocess.Popen([sys.executable, "-c", _KEEPER], stdout=subprocess.PIPE)
    assert keeper.stdout is not None
    leashed = psutil.Process(int(keeper.stdout.readline()))
    keeper.kill()
    keeper.communicate()

    wait_until_gone([leashed])


def test_a_program_whose_parent_is_gone_already_does_not_start() -> None:
    [python, *options, _parent, program] = on_a_leash(["true"])
    late = subprocess.run(
        [python, *options, str(os.getpid() + 1), program], capture_output=True, check=False
    )

    assert late.returncode != 0
    assert b"parent" in late.stderr


def test_a_deaf_program_does_not_get_sigterm_whatever_it_does_about_it() -> None:
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('it lives')\n"
    )

    def ended(*, deaf: bool) -> subprocess.CompletedProcess[bytes]:
        command = on_a_leash([sys.executable, "-c", program], deaf=deaf)
        return subprocess.run(command, capture_output=True, check=False)

    assert ended(deaf=True).stdout == b"it lives\n"
    assert ended(deaf=False).returncode == -signal.SIGTERM


def test_a_killed_front_leaves_neither_server_nor_stub_nor_shared_memory(
    engine: Callable[[str], Path], tmp_path: Path
) -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-c", _SERVING_KEEPER, str(engine("llama")), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert keeper.stdout is not None
    server = psutil.Process(int(keeper.stdout.readline()))
    [stub] = server.children()
    [region] = [Path("/dev/shm", name) for name in stub.cmdline() if "shm_region" in name]
    keeper.send_signal(signal.SIGKILL)
    keeper.communicate()

    wait_until_gone([server, stub])
    assert not region.exists()


def test_back_ends_are_prepared_once_however_many_ask(tmp_path: Path) -> None:
    installation = find_triton()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(prepare_backends, installation, tmp_path) for _ in range(8)]
        [prepared] = {each.result() for each in asked}

    assert list(tmp_path.iterdir()) == [prepared]
    assert {path.name for path in (prepared / "python").iterdir()} >= {
        "libtriton_python.so",
        "triton_python_backend_stub",
        "triton_python_backend_utils.py",
    }


def test_an_engine_learns_none_of_our_secrets_and_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENGINESHED_NATS_URL", "nats://user:pa55word@127.0.0.1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pa55word")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "pa55word")
    environment = engine_environment(threads=3)

    assert "pa55word" not in json.dumps(environment)
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["ENGINESHED_TORCH_THREADS"] == environment["OMP_NUM_THREADS"] == "3"


def test_the_virtual_environment_comes_first_in_the_servers_path(tmp_path: Path) -> None:
    command = server_command(
        find_triton(), tmp_path, Ports(1, 2, 3), tmp_path, env={"CUDA_VISIBLE_DEVICES": "1"}
    )

    assert command.env["PATH"].split(os.pathsep)[0] == str(Path(sys.prefix) / "bin")
    assert command.env["CUDA_VISIBLE_DEVICES"] == "1"


def in_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch, *programs: str) -> Installation:
    """A Triton as in NVIDIA's image, with programs on PATH behind our virtual environment."""
    for program in programs:
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    own = Path(sys.prefix) / "bin"
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}{folder}")
    monkeypatch.setenv("PYTHONPATH", str(own.parent))
    return Installation(Path("/opt/tritonserver/bin/tritonserver"), folder, "image")


def test_in_an_image_models_run_in_its_interpreter_and_not_in_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = in_an_image(tmp_path, monkeypatch)
    style = Style(own_interpreter=False, completes_config=True)

    command = server_command(image, tmp_path, Ports(1, 2, 3), tmp_path, style=style)

    assert command.env["PATH"] == str(tmp_path)
    assert "PYTHONPATH" not in command.env
    assert "--disable-auto-complete-config" not in command.argv
    assert any(each.endswith(f"shm-region-prefix-name={command.regions}") for each in command.argv)


def test_an_engine_of_several_gpus_has_a_server_for_each_under_one_mpirun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = in_an_image(tmp_path, monkeypatch, "mpirun")
    style = Style(own_interpreter=False, ranks=2)

    command = server_command(image, tmp_path, Ports(1, 2, 3), tmp_path, style=style)

    mpirun = command.argv.index("mpirun")
    assert command.argv[mpirun + 1 : mpirun + 4] == ("--allow-run-as-root", "-n", "1")
    colon = command.argv.index(":")
    first, second = command.argv[mpirun:colon], command.argv[colon:]
    for rank, argv in enumerate((first, second)):
        assert {"--load-model=tensorrt_llm", "--http-port=1", "--grpc-port=2"} <= set(argv)
        assert f"--backend-config=python,shm-region-prefix-name={command.regions}{rank}_" in argv


def test_without_mpirun_an_engine_of_several_gpus_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = in_an_image(tmp_path, monkeypatch)
    style = Style(own_interpreter=False, ranks=2)

    with pytest.raises(MpiNotFoundError, match="2 GPUs"):
        server_command(image, tmp_path, Ports(1, 2, 3), tmp_path, style=style)
