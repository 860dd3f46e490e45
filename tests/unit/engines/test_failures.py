"""Known failures are told by the texts that people have met, and by how a process ended."""

import re
import signal
from pathlib import Path

import pytest

from engineshed.agent.engines import tensorrt_llm
from engineshed.triton.failures import EVIDENCE_LINES, diagnose, diagnosis_of, request_error
from engineshed.triton.signatures import KNOWN, SIGNATURES, Phase

ERROR = "[TensorRT-LLM][ERROR] "

TEXTS: tuple[tuple[Phase, str, str], ...] = (
    (
        "load",
        "IRuntime::deserializeCudaEngine: Error Code 1: The engine plan file is generated on an "
        "incompatible device, expecting compute 9.0 got compute 8.9, please rebuild",
        "ENGINE_WRONG_GPU",
    ),
    (
        "load",
        "The engine plan file is not compatible with this version of TensorRT, expecting library "
        "version 10.14.1 got 10.13.3, please rebuild.",
        "ENGINE_VERSION_MISMATCH",
    ),
    ("load", "Assertion failed: Failed to deserialize cuda engine", "ENGINE_VERSION_MISMATCH"),
    ("load", "CUDA runtime error in ::cudaMallocAsync(ptr, n, s): out of memory", "OOM_AT_LOAD"),
    ("load", "CUDA out of memory", "OOM_AT_LOAD"),
    # The back end says so of everything that goes wrong while it loads.
    ("load", "unexpected error when creating modelInstanceState: null", "ENGINE_LOAD_FAILED"),
    ("load", "Assertion failed: mpiSize == tp * pp (/src/x.cpp:92)", "WORLD_SIZE_MISMATCH"),
    (
        "load",
        "With communicationMode kLEADER, MPI worldSize is expected to be equal to tp*pp when "
        "participantIds are not specified",
        "WORLD_SIZE_MISMATCH",
    ),
    ("load", "Failed to increase the shared memory pool size for key 'x'", "SHM_TOO_SMALL"),
    ("load", "boost: No space left on device", "SHM_TOO_SMALL"),
    ("load", "try to use '--shm-size' for docker", "SHM_TOO_SMALL"),
    ("load", "Unable to initialize shared memory key 'triton_python'", "SHM_TOO_SMALL"),
    (
        "serve",
        "Streaming is only supported if model is deployed using decoupled mode.",
        "DECOUPLED_MISMATCH",
    ),
    (
        "serve",
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
        "DECOUPLED_MISMATCH",
    ),
    ("load", "unable to find backend library for backend 'tensorrtllm'", "BACKEND_MISSING"),
    ("serve", "Prompt length (9000) exceeds maximum input length (8191)", "PROMPT_TOO_LONG"),
    ("build", "could not find any supported formats consistent with", "BUILD_OOM_GPU"),
    ("convert", "torch.OutOfMemoryError: CUDA out of memory. Tried to", "BUILD_OOM_GPU"),
    ("build", "FMHA kernels are not supported on this architecture", "UNSUPPORTED_SM"),
    ("build", "CUDA error: no kernel image is available for execution", "UNSUPPORTED_SM"),
    ("build", "Unsupported SM version 120 for this layer", "UNSUPPORTED_SM"),
    ("load", "Floating point exception (core dumped)", "CRASH_AT_LOAD"),
    ("build", "/bin/sh: trtllm-build: command not found", "TRT_PATH_REMOVED"),
    (
        "build",
        "ModuleNotFoundError: No module named 'tensorrt_llm._tensorrt_engine'",
        "TRT_PATH_REMOVED",
    ),
    ("build", 'ValueError: backend="tensorrt" is not supported', "TRT_PATH_REMOVED"),
    ("load", "failed to read text proto from /models/tensorrt_llm/config.pbtxt", "RENDER_BUG"),
    ("serve", "lora_task_id 7 not found in cache", "LORA_NOT_CACHED"),
    ("build", "OSError: [Errno 28] No space left on device", "DISK_FULL"),
    ("build", "trtllm-build: error: unrecognized arguments: --x", "TOOLCHAIN_MISMATCH"),
    ("convert", "huggingface_hub.errors.OfflineModeIsEnabled: Cannot", "NO_CALIBRATION_DATA"),
    ("load", "CUDA driver version is insufficient for CUDA runtime version", "DRIVER_TOO_OLD"),
)


@pytest.mark.parametrize(("phase", "text", "code"), TEXTS, ids=[text[1][:40] for text in TEXTS])
@pytest.mark.parametrize("write", [str, str.upper])
def test_a_known_text_tells_what_went_wrong(
    phase: Phase, text: str, code: str, write: type[str]
) -> None:
    found = diagnose(f"starting\n{ERROR}{write(text)}\nbye", phase=phase, status=1)

    assert found.code == code
    assert found.cause == ERROR + write(text)
    assert found.advice


def test_every_signature_and_no_other_code_is_known() -> None:
    assert {signature.code for signature in SIGNATURES} <= set(KNOWN)


def test_operators_find_every_code_with_what_to_do() -> None:
    """In the table of failures."""
    table = (Path(__file__).parents[3] / "docs/operations/gpu-hosts.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    told = set(re.findall(r"`([A-Z][A-Z_]+)`", "\n".join(row.split("|")[1] for row in rows)))
    of_builds = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", (tensorrt_llm.__doc__ or "")))

    assert set(KNOWN) | of_builds - {"NO_CONFIG", "MISSING_WEIGHTS"} <= told
    for row in rows:
        codes, again = re.findall(r"`([A-Z][A-Z_]+)`", row.split("|")[1]), row.split("|")[2].strip()
        for code in codes:
            if code in KNOWN and again in ("yes", "no"):
                assert KNOWN[code].retryable is (again == "yes"), code


def test_what_can_only_be_seen_by_others_has_advice_too() -> None:
    found = diagnosis_of("BUILD_STALLED", ["one", "two"], "no life for 900 s")

    assert (found.retryable, found.cause, found.evidence) == (
        True,
        "no life for 900 s",
        ("one", "two"),
    )
    assert found.message.startswith("no life for 900 s: ")


@pytest.mark.parametrize(
    "line",
    [
        "[TensorRT-LLM][ERROR] first",
        "[11/27/2026-12:00:00] [TRT-LLM] [E] first",
        "[11/27/2026-12:00:00] [TRT] [E] first",
        "[11/27/2026-12:00:00] [TRT-LLM] [RANK 1] [E] first",
        "E1127 12:00:00.123456 77 model.cc:10] first",
        "2026-11-27T12:00:00Z E 77 model.cc:10] first",
    ],
)
def test_the_cause_is_the_first_error(line: str) -> None:
    log = ["I am fine", line, "[TensorRT-LLM][ERROR] second", "Engine building failed"]

    found = diagnose(log, phase="build", status=1)

    assert (found.code, found.cause) == ("BUILD_FAILED", line)


def test_of_a_traceback_its_last_line_is_the_cause() -> None:
    log = """\
converting
Traceback (most recent call last):
  File "convert_checkpoint.py", line 9, in <module>
    main()
KeyError: 'lm_head.weight'
"""
    found = diagnose(log, phase="convert", status=1)

    assert (found.code, found.cause) == ("CONVERT_FAILED", "KeyError: 'lm_head.weight'")


def test_above_an_mpi_abort_is_its_cause() -> None:
    log = [f"{ERROR}no NCCL", "MPI_ABORT was invoked on rank 1", f"{ERROR}after it"]

    found = diagnose(log, phase="load", status=1)

    assert (found.code, found.cause) == ("MPI_ABORT", f"{ERROR}no NCCL")


def test_what_is_known_of_the_cause_of_an_mpi_abort_says_more_than_the_abort() -> None:
    log = [f"{ERROR}Assertion failed: mpiSize == tp * pp", "MPI_ABORT was invoked on rank 1"]

    assert diagnose(log, phase="load", status=1).code == "WORLD_SIZE_MISMATCH"


@pytest.mark.parametrize("status", [-signal.SIGKILL, 137])
def test_a_build_that_was_killed_most_likely_lacked_memory(status: int) -> None:
    found = diagnose("half way", phase="build", status=status)

    assert (found.code, found.retryable) == ("BUILD_OOM_HOST", True)
    assert "most likely" in found.cause


def test_where_the_kernel_counted_it_the_want_of_memory_is_certain() -> None:
    found = diagnose("Engine building failed", phase="build", status=1, oom_kills=1)

    assert found.code == "BUILD_OOM_HOST"
    assert "most likely" not in found.cause


@pytest.mark.parametrize(
    ("phase", "status", "code"),
    [
        ("build", -signal.SIGSEGV, "BUILD_CRASHED"),
        ("convert", 134, "BUILD_CRASHED"),
        ("load", -signal.SIGFPE, "CRASH_AT_LOAD"),
        ("load", 136, "CRASH_AT_LOAD"),
        ("shutdown", -signal.SIGABRT, "SHUTDOWN_UNCLEAN"),
    ],
)
def test_a_crash_names_its_signal(phase: Phase, status: int, code: str) -> None:
    found = diagnose("working", phase=phase, status=status)

    assert found.code == code
    assert signal.Signals(-status if status < 0 else status - 128).name in found.cause


def test_a_stub_that_never_came_up_is_told_by_the_last_line() -> None:
    log = ["loading", "I1127 12:00:00.1 7 stub.cc:1] Starting Python backend stub: …"]

    assert diagnose(log, phase="load").code == "STUB_STUCK"


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        ("convert", "CONVERT_FAILED"),
        ("build", "BUILD_FAILED"),
        ("load", "ENGINE_LOAD_FAILED"),
        ("serve", "SERVE_FAILED"),
    ],
)
def test_what_nobody_knows_has_the_name_of_its_phase_and_its_last_words(
    phase: Phase, code: str
) -> None:
    found = diagnose("odd\nvery odd\n\n", phase=phase, status=3)

    assert (found.code, found.retryable, found.cause) == (code, True, "very odd")


def test_nothing_said_is_no_crash_of_ours() -> None:
    assert diagnose("", phase="build", status=1).evidence == ()


def test_evidence_is_the_end_of_the_log_and_bounded() -> None:
    log = [f"{number} " + "x" * 10_000 for number in range(200)]

    evidence = diagnose(log, phase="build", status=1).evidence

    assert len(evidence) == EVIDENCE_LINES
    assert evidence[-1].startswith("199 ")
    assert max(map(len, evidence)) <= 500


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Prompt length (9000) exceeds maximum input length (8191).", "PROMPT_TOO_LONG"),
        ("[request id: 7] Exceeds maximum queue size", "QUEUE_FULL"),
        ("Failed to compile the guided decoding grammar", "BAD_GUIDE"),
        ("Invalid json_schema: unexpected token", "BAD_GUIDE"),
        ("CUDA error: an illegal memory access was encountered", None),
        ("", None),
    ],
)
def test_errors_of_requests_that_are_not_the_engines(text: str, code: str | None) -> None:
    assert request_error(text) == code
