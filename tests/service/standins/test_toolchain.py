"""The stand-in for NVIDIA's programs: it takes, writes and fails as they do."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import Distribution
from pathlib import Path

import psutil
import pytest
from tests.service.engines import standin
from tests.standins.tensorrt_llm import H100, TEXTS, StandInImage, Template, make_image

DEADLINE = 30.0
A100 = H100 | {"name": "NVIDIA A100-SXM4-80GB", "capability": [8, 0]}


@pytest.fixture
def converted(image: StandInImage, checkpoint: Path, tmp_path: Path) -> Path:
    return standin.convert(image, checkpoint, tmp_path / "converted", "--tp_size", "2")


def build(image: StandInImage, converted: Path, **env: str) -> subprocess.CompletedProcess[str]:
    arguments = standin.build_arguments(converted, converted.parent / "engine")
    return standin.run_anyway(image, image.bin / "trtllm-build", *arguments, **env)


def quantize(
    image: StandInImage, checkpoint: Path, output: Path, *more: str | Path
) -> subprocess.CompletedProcess[str]:
    script = image.app / "examples" / "quantization" / "quantize.py"
    arguments = ("--model_dir", checkpoint, "--output_dir", output, "--qformat", "fp8", *more)
    return standin.run_anyway(image, image.bin / "python3", script, *arguments)


@contextmanager
def started(image: StandInImage, *command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start a program of the image in a process group of its own; nothing of it stays."""
    env = os.environ | image.environment()
    process = subprocess.Popen(
        list(map(str, command)),
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def children_of(pid: int, count: int) -> list[psutil.Process]:
    """Wait until a process has that many children."""
    end = time.monotonic() + DEADLINE
    while len(children := psutil.Process(pid).children()) < count:
        assert time.monotonic() < end, "they never came to be"
        time.sleep(0.01)
    return children


@pytest.mark.parametrize(
    "program",
    [
        "bin/trtllm-build",
        "app/examples/models/core/llama/convert_checkpoint.py",
        "app/examples/models/core/qwen/convert_checkpoint.py",
        "app/examples/models/core/gemma/convert_checkpoint.py",
        "app/examples/quantization/quantize.py",
        "app/examples/generate_xgrammar_tokenizer_info.py",
    ],
)
def test_an_argument_that_nobody_knows_ends_a_program(image: StandInImage, program: str) -> None:
    folders = ("--model_dir", "m", "--output_dir", "o") if program.startswith("app") else ()
    done = standin.run_anyway(image, image.folder / program, *folders, "--max_batch_siz", "1")

    assert done.returncode == 2
    assert "unrecognized arguments: --max_batch_siz 1" in done.stderr


def test_an_engine_has_a_file_for_each_rank_and_says_what_it_was_built_with(
    image: StandInImage, converted: Path
) -> None:
    done = build(image, converted)
    engine = converted.parent / "engine"
    config = json.loads((engine / "config.json").read_text())

    assert {file.name for file in engine.iterdir()} == {
        "config.json",
        "rank0.engine",
        "rank1.engine",
    }
    assert config["version"] == "1.2.1"
    assert config["pretrained_config"]["mapping"]["world_size"] == 2
    assert config["pretrained_config"]["dtype"] == "bfloat16"
    assert config["build_config"]["max_batch_size"] == standin.MAX_BATCH
    assert config["build_config"]["plugin_config"]["use_paged_context_fmha"] is True
    assert "Total time of building all engines: 00:00:0" in done.stdout


def test_calibration_takes_local_data_and_has_no_network(
    image: StandInImage, checkpoint: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "texts.jsonl").write_text('{"text": "hello"}\n')
    output = tmp_path / "quantized"

    assert "ConnectionError" in quantize(image, checkpoint, output).stderr
    done = quantize(image, checkpoint, output, "--calib_dataset", data, "--kv_cache_dtype", "fp8")
    assert done.returncode == 0, done.stderr
    config = json.loads((output / "config.json").read_text())
    assert config["quantization"]["quant_algo"] == "FP8"
    assert config["quantization"]["kv_cache_quant_algo"] == "FP8"

    (data / "texts.jsonl").write_text('{"words": "hello"}\n')
    done = quantize(image, checkpoint, output, "--calib_dataset", data)
    assert "KeyError: 'text'" in done.stderr


def test_a_gpu_that_cannot_compute_with_a_quantization_builds_no_engine(
    image: StandInImage, checkpoint: Path, tmp_path: Path
) -> None:
    converted = standin.convert(image, checkpoint, tmp_path / "converted", "--use_fp8")

    assert build(image, converted).returncode == 0
    done = build(image, converted, STAND_IN_GPUS=json.dumps([A100]))
    assert done.returncode == 1
    assert "no kernel for sm_80" in done.stdout
    assert TEXTS["build_failed"] in done.stderr


def test_the_script_for_gemma_must_be_told_the_kind_of_checkpoint(
    image: StandInImage, checkpoint: Path, tmp_path: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["architectures"] = ["Gemma2ForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    script = image.app / "examples" / "models" / "core" / "gemma" / "convert_checkpoint.py"
    folders = ("--model_dir", tmp_path, "--output_dir", tmp_path / "converted")

    assert standin.run_anyway(image, script, *folders).returncode == 1
    standin.run(image, script, *folders, "--ckpt-type", "hf", "--world-size", "2")
    assert (tmp_path / "converted" / "rank1.safetensors").exists()


@pytest.mark.parametrize(
    ("order", "status", "printed"),
    [
        ({"exit": 3}, 3, ""),
        ({"text": TEXTS["no_formats"], "exit": 1}, 1, "could not find any supported formats"),
        ({"crash": "SIGSEGV"}, -signal.SIGSEGV, ""),
        ({"oom": True}, -signal.SIGKILL, ""),
        ({"gpu_oom": True}, 1, "out of memory"),
        ({"slow": 0.3}, 0, "s to go"),
    ],
)
def test_a_build_fails_as_it_is_ordered_to(
    image: StandInImage, converted: Path, order: dict[str, object], status: int, printed: str
) -> None:
    image.order("build", **order)
    done = build(image, converted)

    assert done.returncode == status
    assert printed in done.stdout


def test_an_order_that_holds_once_leaves_the_next_build_alone(
    image: StandInImage, converted: Path
) -> None:
    image.order("build", exit=3, once=True)

    assert [build(image, converted).returncode for _ in range(2)] == [3, 0]


@pytest.mark.parametrize(("how", "size"), [("short", 40), ("empty", 0), ("missing", None)])
def test_the_last_ranks_engine_is_broken_as_ordered(
    image: StandInImage, converted: Path, how: str, size: int | None
) -> None:
    image.order("build", truncate=how)
    assert build(image, converted).returncode == 0
    broken = converted.parent / "engine" / "rank1.engine"

    assert (broken.stat().st_size if broken.exists() else None) == size


def test_an_engine_says_other_limits_than_were_asked_for_as_ordered(
    image: StandInImage, converted: Path
) -> None:
    image.order("build", limits={"max_seq_len": 128})
    build(image, converted)
    config = json.loads((converted.parent / "engine" / "config.json").read_text())

    assert config["build_config"]["max_seq_len"] == 128


def test_a_build_that_hangs_goes_with_its_group(image: StandInImage, converted: Path) -> None:
    image.order("build", hang=True, child=True)
    arguments = standin.build_arguments(converted, converted.parent / "engine")
    with started(image, image.bin / "trtllm-build", *arguments) as process:
        [child] = children_of(process.pid, 1)
    child.wait(DEADLINE)

    assert process.returncode == -signal.SIGKILL


def test_a_rank_that_dies_takes_the_others_with_it(image: StandInImage) -> None:
    sleeping = ("sh", "-c", "exec sleep 1000")
    dying = ("sh", "-c", "test $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE = '1 of 2'; exit 3")
    command = ("--allow-run-as-root", "-n", "1", *sleeping, ":", "-n", "1", *dying)
    done = standin.run_anyway(image, image.bin / "mpirun", *command)

    assert done.returncode == 3
    assert "MPI_ABORT was invoked on rank 1" in done.stderr


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_mpirun_ends_all_ranks_those_that_are_deaf_too(
    image: StandInImage, told: signal.Signals
) -> None:
    deaf = ("sh", "-c", "trap '' TERM INT; sleep 1000")
    command = ("-n", "1", *deaf, ":", "-n", "1", "sleep", "1000")
    with started(image, image.bin / "mpirun", *command) as process:
        ranks = children_of(process.pid, 2)
        process.send_signal(told)
        assert process.wait(DEADLINE) == 128 + told
        psutil.wait_procs(ranks, DEADLINE)

    assert not any(rank.is_running() for rank in ranks)


def test_the_interpreter_of_the_image_has_its_packages(image: StandInImage) -> None:
    program = (
        "from importlib.metadata import version; import numpy, tensorrt, tensorrt_llm\n"
        "from tensorrt_llm.models import MODEL_MAP\n"
        "print(version('tensorrt_llm'), tensorrt.__version__, 'GptOssForCausalLM' in MODEL_MAP)"
    )

    said = standin.run(image, image.bin / "python3", "-c", program)
    assert said.splitlines()[-1] == "1.2.1 10.14.1.48 False"


def test_an_image_after_the_removal_has_the_llm_api_alone(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", removed=True)
    models = {folder.name for folder in (image.app / "all_models").iterdir()}
    backends = {folder.name for folder in (image.triton / "backends").iterdir()}
    [metadata] = image.folder.glob("lib/python3.*/site-packages/*.dist-info")

    assert not (image.bin / "trtllm-build").exists()
    assert models == {"llmapi"}
    assert backends == {"python"}
    assert Distribution.at(metadata).version == "1.4.0"


def test_templates_of_older_images_have_the_older_names(tmp_path: Path) -> None:
    older = Template(older=True).text()
    newer = Template(extra_variable=True).text()

    assert '"random_seed"' in older
    assert '"seed"' not in older
    assert "${prompt_embedding_table_data_type}" not in older
    assert '"seed"' in newer
    assert "${something_new}" in newer
