"""Loading an engine: what it can do, or why it cannot be loaded, in the real one's words."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .asks import Limits
from .choosing import Chooser
from .engines import BrokenPlanError, Plan, read_config, read_plan
from .executor import Capacity
from .gpus import Gpu, visible_gpus
from .logs import say
from .orders import hang, progress, read_order, spin
from .texts import TEXTS

_CUT_OFF = "[TensorRT-LLM][ERROR] Assertion failed: "


class LoadError(Exception):
    """The engine cannot be loaded."""


@dataclass(frozen=True)
class Loaded:
    """An engine in memory."""

    chooser: Chooser
    capacity: Capacity
    limits: Limits
    gpu_bytes: int


def load(image: Path, parameters: Mapping[str, str]) -> Loaded:
    """Load the engine that the model's parameters name, as the rank that this process is.

    Ranks other than the first never return from it.

    Raises:
        LoadError: it cannot be loaded.

    """
    obey(image)
    say("[TensorRT-LLM][INFO] Engine version 1.2.1 found in the config file, assuming engine(s)")
    engine = Path(parameters.get("gpt_model_path", ""))
    if not (engine / "config.json").is_file():
        raise LoadError("Both encoder and decoder model paths are empty")
    config = read_config(engine)
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
    size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    if size != config["pretrained_config"]["mapping"]["world_size"]:
        raise _logged(TEXTS["world_size"])
    gpu = _own_gpu()
    plan = _read_plan(image, engine, rank, gpu)
    _meet_other_ranks(image, rank, size)
    return _loaded(config, plan, gpu, parameters)


def end_server(signal_name: str) -> None:
    """End the server and this process: the real back end is a part of the server."""
    os.kill(os.getppid(), signal.Signals[signal_name])
    os._exit(1)


def obey(image: Path) -> None:
    """Do what the loading of a model is ordered to.

    Raises:
        LoadError: it is ordered to fail.

    """
    order = read_order(image, "load")
    progress(order.get("slow", 0.0))
    if "text" in order:
        say(order["text"], sys.stderr)
    if order.get("gpu_oom"):
        raise _logged(TEXTS["gpu_oom"])
    if order.get("hang"):
        hang()
    if order.get("spin"):
        spin()
    if signal_name := "SIGKILL" if order.get("oom") else order.get("crash"):
        end_server(signal_name)
    if "text" in order:
        raise LoadError(_bare(order["text"]))


def _own_gpu() -> Gpu:
    gpus = visible_gpus()
    local_rank = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
    if local_rank >= len(gpus):
        raise _logged(
            "[TensorRT-LLM][ERROR] CUDA runtime error in cudaSetDevice(): invalid device ordinal"
        )
    return gpus[local_rank]


def _read_plan(image: Path, engine: Path, rank: int, gpu: Gpu) -> Plan:
    try:
        plan = read_plan(engine, rank)
    except BrokenPlanError as error:
        raise _logged(TEXTS["deserialize"]) from error
    if plan.compute_capability != gpu.capability:
        wrong = TEXTS["wrong_gpu"].replace("compute 9.0", f"compute {plan.compute_capability}")
        say(wrong.replace("got compute 8.9", f"got compute {gpu.capability}"), sys.stderr)
        raise _logged(TEXTS["deserialize"])
    installed = _tensorrt_version(image)
    if plan.tensorrt_version != installed:
        wrong = TEXTS["wrong_version"].replace("10.14.1.48", installed)
        say(wrong.replace("10.13.3.9", plan.tensorrt_version), sys.stderr)
        raise _logged(TEXTS["deserialize"])
    return plan


def _meet_other_ranks(image: Path, rank: int, size: int) -> None:
    if size == 1:
        return
    # The server's parent is the mpirun that started all the ranks.
    server = Path(f"/proc/{os.getppid()}/stat").read_text()
    meeting = image / "ranks" / server.rpartition(")")[2].split()[1]
    meeting.mkdir(parents=True, exist_ok=True)
    (meeting / str(rank)).touch()
    if rank:
        hang()
    while len(list(meeting.iterdir())) < size:
        time.sleep(0.02)


def _loaded(config: dict[str, Any], plan: Plan, gpu: Gpu, parameters: Mapping[str, str]) -> Loaded:
    build, pretrained = config["build_config"], config["pretrained_config"]
    plugins = build["plugin_config"]
    max_input_len = build["max_input_len"]
    if plugins["remove_input_padding"] and plugins["context_fmha"]:
        max_input_len = build["max_seq_len"] - 1  # the one asked for counts with padding only
    if parameters.get("enable_chunked_context", "").lower() != "true":
        max_input_len = min(max_input_len, build["max_num_tokens"])
    blocks = _blocks(pretrained, plugins["tokens_per_block"], gpu, parameters)
    return Loaded(
        chooser=Chooser(plan.vocab_size, plan.avoided),
        capacity=Capacity(build["max_batch_size"], blocks, plugins["tokens_per_block"]),
        limits=Limits(
            max_input_len, build["max_seq_len"], build["max_beam_width"], plan.vocab_size
        ),
        gpu_bytes=gpu.memory // 10,
    )


def _blocks(
    pretrained: dict[str, Any], tokens_per_block: int, gpu: Gpu, parameters: Mapping[str, str]
) -> int:
    mapping = pretrained["mapping"]
    heads = -(-pretrained["num_key_value_heads"] // mapping["tp_size"])
    layers = -(-pretrained["num_hidden_layers"] // mapping["pp_size"])
    token_bytes = 2 * layers * heads * pretrained["head_size"] * 2
    fraction = float(parameters.get("kv_cache_free_gpu_mem_fraction", "0.9"))
    tokens = int(gpu.memory * 0.9 * fraction) // token_bytes
    if most := parameters.get("max_tokens_in_paged_kv_cache"):
        tokens = min(tokens, int(most))
    blocks: int = tokens // tokens_per_block
    return max(1, blocks)


def _tensorrt_version(image: Path) -> str:
    (metadata,) = image.glob("lib/python3.*/site-packages/tensorrt-*.dist-info")
    return metadata.name.removeprefix("tensorrt-").removesuffix(".dist-info")


def _logged(text: str) -> LoadError:
    say(text, sys.stderr)
    return LoadError(_bare(text))


def _bare(text: str) -> str:
    """Return what an exception says: the text without what the log puts in front."""
    return f"{TEXTS['instance_state']}: [TensorRT-LLM][ERROR] " + text.removeprefix(
        _CUT_OFF
    ).removeprefix("[TensorRT-LLM][ERROR] ")
