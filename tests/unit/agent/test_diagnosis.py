"""What `doctor` makes of what was seen of a host."""

import json
from dataclasses import replace

import pytest

from engineshed.agent.doctor.table import as_json, as_table
from engineshed.agent.domain.doctor.checks import GIB, IMAGE, Check, Mark
from engineshed.agent.domain.doctor.diagnosis import Diagnosis, diagnose
from engineshed.agent.domain.doctor.facts import (
    Backend,
    Facts,
    Gpu,
    Limits,
    Machine,
    Offer,
    Space,
    Toolchain,
    Torch,
    Traces,
    Triton,
    Unseen,
)

H200S = Offer(
    gpu_type="h200-sxm",
    count=2,
    simulated=False,
    memory_bytes=139 * GIB,
    product="NVIDIA H200",
    compute_capability="9.0",
    driver="590.44.01",
)
CPU = Offer(gpu_type="cpu", count=4, simulated=False)
TORCH = Backend("torch", available=True, versions={"torch": "2.13.0"})
NO_TORCH = Backend("torch", available=False, reason="the package torch is missing")
SERVER = "/opt/tritonserver/bin/tritonserver"
BACKENDS = "/opt/tritonserver/backends"

EVERYTHING = Facts(
    offer=H200S,
    gpus=(
        Gpu("GPU-a", "NVIDIA H200", offered=True, pcie="PCIe 5 x16", nvlinks=18),
        Gpu("GPU-b", "NVIDIA H200", offered=True, pcie="PCIe 5 x16", nvlinks=18),
    ),
    traces=Traces("590.44.01", 2),
    triton=Triton(
        server=SERVER,
        executable=True,
        version="2.71.0",
        python=f"{BACKENDS}/python/libtriton_python.so",
        tensorrtllm=f"{BACKENDS}/tensorrtllm/libtriton_tensorrtllm.so",
        worker=f"{BACKENDS}/tensorrtllm/trtllmExecutorWorker",
    ),
    toolchain=Toolchain(
        command="/opt/venv-tritonserver/bin/trtllm-build",
        tensorrt_llm="1.2.1",
        tensorrt="10.14.1.48",
        examples="/app/examples",
        families=("llama", "qwen"),
        quantize="/app/examples/quantization/quantize.py",
        template="/app/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt",
        llmapi="/app/all_models/llmapi/tensorrt_llm",
        mpirun="/usr/local/mpi/bin/mpirun",
    ),
    torch=Torch("2.10.0", "13.1", devices=2, transformers="5.23.0"),
    machine=Machine(32, 32, 256 * GIB, 256 * GIB, 200 * GIB),
    shared_memory=Space("/dev/shm", 2 * GIB, 2 * GIB),
    disk=Space("/var/lib/engineshed/agent", 900 * GIB, 500 * GIB),
    limits=Limits(locked_memory=None, stack=64 << 20),
    backends=(Backend("tensorrt_llm", available=True, versions={"tensorrt": "10.14.1.48"}), TORCH),
)
LOST = Unseen("no answer within 15 s")
NOTHING = Facts(
    offer=CPU,
    gpus=(),
    traces=Traces("", 0),
    triton=Unseen("Triton is not here"),
    toolchain=Toolchain("", "", "", "", (), "", "", "", ""),
    torch=Unseen("No package metadata was found for torch"),
    machine=Machine(2, 8, 4 * GIB, 16 * GIB, GIB),
    shared_memory=Space("/dev/shm", 64 << 20, 64 << 20),
    disk=Space("/var/lib/engineshed/agent", 30 * GIB, GIB),
    limits=Limits(locked_memory=8 << 20, stack=8 << 20),
    backends=(NO_TORCH,),
)
UNREADABLE = Facts(LOST, LOST, LOST, LOST, LOST, LOST, LOST, LOST, LOST, LOST, (NO_TORCH,))


def line(facts: Facts, name: str) -> Check:
    (found,) = (check for check in diagnose(facts).checks if check.name == name)
    return found


def marked(facts: Facts, mark: Mark) -> set[str]:
    return {check.name for check in diagnose(facts).checks if check.mark is mark}


def test_a_host_with_everything_has_nothing_to_say_but_ok() -> None:
    diagnosis = diagnose(EVERYTHING)

    assert {check.mark for check in diagnosis.checks} == {Mark.OK}
    assert not any(check.hint for check in diagnosis.checks)
    assert diagnosis.can_serve
    assert diagnosis.summary == (
        "this host would join as `h200-sxm` x2 with the back ends tensorrt_llm, torch"
    )


def test_versions_and_paths_are_told() -> None:
    assert line(EVERYTHING, "tritonserver").found == f"2.71.0, {SERVER}"
    assert (
        line(EVERYTHING, "trtllm-build").found == "1.2.1, /opt/venv-tritonserver/bin/trtllm-build"
    )
    assert line(EVERYTHING, "GPU 0").found == "GPU-a, PCIe 5 x16, 18 NVLinks"
    assert "139.0 GiB each, compute capability 9.0" in line(EVERYTHING, "GPUs").found


def test_a_host_with_nothing_is_told_how_to_get_each_thing() -> None:
    diagnosis = diagnose(NOTHING)

    assert not diagnosis.can_serve
    assert marked(NOTHING, Mark.MISSING) >= {"tritonserver", "trtllm-build", "PyTorch", "torch"}
    assert "pip install 'engineshed[embedded]'" in line(NOTHING, "tritonserver").hint
    assert line(NOTHING, "PyTorch").hint == "pip install 'engineshed[torch]'"
    assert IMAGE in line(NOTHING, "trtllm-build").hint
    assert "--shm-size=2g" in line(NOTHING, "/dev/shm").hint
    assert diagnosis.summary == (
        "this host would join as `cpu` x4, but without a back end: nothing can be served on it"
    )


def test_whatever_cannot_be_looked_at_leaves_its_line_and_those_of_the_others() -> None:
    diagnosis = diagnose(UNREADABLE)

    assert not diagnosis.can_serve
    assert Mark.OK not in {check.mark for check in diagnosis.checks}
    assert {"GPUs", "tritonserver", "trtllm-build", "/dev/shm", "disk"} <= {
        check.name for check in diagnosis.checks if check.found == LOST.reason
    }
    assert diagnosis.summary == f"this host would not join: {LOST.reason}"


def test_a_broken_driver_means_that_no_agent_comes_up_whatever_else_is_there() -> None:
    broken = replace(EVERYTHING, offer=Unseen("Driver/library version mismatch"))

    assert line(broken, "GPUs").mark is Mark.MISSING
    assert "start the host again" in line(broken, "GPUs").hint
    assert not diagnose(broken).can_serve


def test_what_is_simulated_is_said_to_be() -> None:
    simulated = replace(NOTHING, offer=Offer("h100-sxm", 8, simulated=True), backends=(TORCH,))

    assert line(simulated, "GPUs").mark is Mark.WARNING
    assert line(simulated, "GPUs").found.startswith("8x h100-sxm, simulated")
    assert diagnose(simulated).can_serve
    assert diagnose(simulated).summary == (
        "this host would join as simulated `h100-sxm` x8 with the back end torch"
    )


@pytest.mark.parametrize(
    ("traces", "found", "hint"),
    [
        (Traces("590.44.01", 0), "out of reach", "docker run --gpus all"),
        (Traces("", 1), "1 of NVIDIA on the PCI bus, without a driver", "install NVIDIA's driver"),
    ],
)
def test_gpus_that_the_agent_would_not_see_are_no_secret(
    traces: Traces, found: str, hint: str
) -> None:
    gpus = line(replace(NOTHING, traces=traces), "GPUs")

    assert gpus.mark is Mark.WARNING
    assert found in gpus.found
    assert hint in gpus.hint


def test_a_gpu_of_another_type_is_shown_as_not_offered() -> None:
    display = Gpu("GPU-display", "NVIDIA T400", offered=False)
    mixed = line(replace(EVERYTHING, gpus=(display,)), "GPU 0")

    assert mixed.mark is Mark.WARNING
    assert mixed.found.startswith("NVIDIA T400, not offered")


@pytest.mark.parametrize(
    ("cuda", "hint"),
    [("", "pip install --force-reinstall torch==2.13.0"), ("13.0", "driver and PyTorch")],
)
def test_a_pytorch_that_does_not_see_the_gpus_is_a_warning_on_a_gpu_host(
    cuda: str, hint: str
) -> None:
    blind = Torch("2.13.0+cpu", cuda, devices=0, transformers="5.23.0")

    on_gpus = line(replace(EVERYTHING, torch=blind), "PyTorch")

    assert on_gpus.mark is Mark.WARNING
    assert hint in on_gpus.hint
    assert line(replace(NOTHING, torch=blind), "PyTorch").mark is Mark.OK


def test_limits_matter_where_there_are_gpus() -> None:
    low = Limits(locked_memory=8 << 20, stack=8 << 20)

    assert marked(replace(EVERYTHING, limits=low), Mark.WARNING) == {"locked memory", "stack"}
    assert line(NOTHING, "locked memory").mark is Mark.OK


def test_little_memory_matters_where_engines_are_built() -> None:
    small = Machine(8, 8, 16 * GIB, 16 * GIB, 8 * GIB)

    assert line(replace(EVERYTHING, machine=small), "memory").mark is Mark.WARNING
    assert line(NOTHING, "memory").mark is Mark.OK
    assert "by the container's limit, of 16.0 GiB" in line(NOTHING, "memory").found
    assert line(NOTHING, "CPU cores").found.startswith("2 of 8")


def test_shared_memory_suffices_from_one_gib_on() -> None:
    def of(free: int) -> Mark:
        space = Space("/dev/shm", 2 * GIB, free)
        return line(replace(EVERYTHING, shared_memory=space), "/dev/shm").mark

    assert (of(GIB), of(GIB - 1)) == (Mark.OK, Mark.WARNING)


def test_a_release_of_tensorrt_llm_that_builds_no_engines_is_recognized() -> None:
    assert isinstance(EVERYTHING.toolchain, Toolchain)
    later = replace(EVERYTHING.toolchain, command="", tensorrt_llm="1.4.0rc1")

    assert (
        "TensorRT-LLM 1.4.0rc1 is here"
        in line(replace(EVERYTHING, toolchain=later), "trtllm-build").found
    )


def test_parts_that_lack_something_are_warned_of() -> None:
    assert isinstance(EVERYTHING.toolchain, Toolchain)
    assert isinstance(EVERYTHING.triton, Triton)
    facts = replace(
        EVERYTHING,
        toolchain=replace(EVERYTHING.toolchain, quantize=""),
        triton=replace(EVERYTHING.triton, worker=""),
    )

    assert marked(facts, Mark.WARNING) == {"conversion scripts", "tensorrtllm back end"}


def test_mpirun_is_missed_where_there_are_several_gpus() -> None:
    assert isinstance(EVERYTHING.toolchain, Toolchain)
    without = replace(EVERYTHING, toolchain=replace(EVERYTHING.toolchain, mpirun=""))
    one = replace(without, offer=replace(H200S, count=1))

    assert line(EVERYTHING, "mpirun").found == "/usr/local/mpi/bin/mpirun"
    assert marked(without, Mark.WARNING) == {"mpirun"}
    assert "mpirun" not in {check.name for check in diagnose(one).checks}


def test_a_server_that_cannot_be_run_is_missing() -> None:
    assert isinstance(EVERYTHING.triton, Triton)
    locked = replace(EVERYTHING, triton=replace(EVERYTHING.triton, executable=False))

    assert line(locked, "tritonserver").mark is Mark.MISSING


def test_a_back_end_that_is_not_available_says_why() -> None:
    assert line(NOTHING, "torch").mark is Mark.MISSING
    assert line(NOTHING, "torch").found == NO_TORCH.reason
    assert "this release does not have it" in line(NOTHING, "tensorrt_llm").found


def test_no_two_lines_have_one_name() -> None:
    for facts in (EVERYTHING, NOTHING, UNREADABLE):
        names = [check.name for check in diagnose(facts).checks]
        assert len(names) == len(set(names))


def test_the_table_names_each_remedy_once_and_ends_with_the_summary() -> None:
    table = as_table(diagnose(NOTHING))

    assert table.splitlines()[0].split() == ["CHECK", "STATE", "FOUND"]
    assert table.count(f"stack=67108864 {IMAGE}\n") == 2  # alone, and as the other way to Triton
    assert table.splitlines()[-1] == diagnose(NOTHING).summary
    assert "What helps" not in as_table(diagnose(EVERYTHING))


@pytest.mark.parametrize("facts", [EVERYTHING, NOTHING, UNREADABLE])
def test_json_has_all_that_the_table_has(facts: Facts) -> None:
    diagnosis: Diagnosis = diagnose(facts)

    told = json.loads(as_json(diagnosis))

    assert told["can_serve"] is diagnosis.can_serve
    assert told["summary"] == diagnosis.summary
    assert told["backends"] == list(diagnosis.backends)
    assert [(check["name"], check["mark"]) for check in told["checks"]] == [
        (check.name, check.mark.value) for check in diagnosis.checks
    ]
    if isinstance(facts.offer, Offer):
        assert (told["gpu_type"], told["gpu_count"]) == (facts.offer.gpu_type, facts.offer.count)
