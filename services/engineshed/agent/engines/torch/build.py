"""Building an engine, in a process of its own: python -m engineshed.agent.engines.torch.build TASK.

TASK is a `BuildTask` in JSON. On standard output come lines of JSON: `{"stage", "fraction"}` as it
goes on, or one `{"error": {"code", "message", "retryable"}}`. Everything else, also what libraries
print, goes to standard error. The exit status is 0 when the engine is whole.
"""

import errno
import json
import os
import sys
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import torch
import transformers
from pydantic import TypeAdapter
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from engineshed.agent.engines.checkpoint import Layout, hash_files, read_layout
from engineshed.agent.engines.files import place
from engineshed.agent.engines.interface import EngineBuildError, Progress
from engineshed.agent.engines.torch.guiding import UnknownTokenizerError, read_tokenizer
from engineshed.agent.engines.torch.loading import (
    end_ids_of,
    load_model,
    name_of_dtype,
    own_context,
)
from engineshed.agent.engines.torch.selfcheck import ModelBrokenError, choose_decoding
from engineshed.agent.engines.torch.task import (
    CHECKPOINT_FOLDER,
    DEFAULT_MAX_CONTEXT,
    BuildTask,
)
from engineshed.agent.engines.torch.versions import versions
from engineshed.triton.engine import EngineFile, EngineManifest

log = structlog.get_logger()

_SMALLEST_CONTEXT: Final = 16
_LONGEST_MESSAGE: Final = 2000
"""In characters. An error of a library may quote a whole file; the log has all of it."""


def build(task: BuildTask, progress: Progress) -> EngineManifest:
    """Build the engine that `task` asks for and write its engine.json.

    Raises:
        EngineBuildError: with the reason.

    """
    destination = Path(task.destination)
    progress("verifying", 0.0)
    layout = read_layout(Path(task.checkpoint))
    config = _read_config(layout)
    max_context = _max_context(config, task.max_context)
    files = hash_files(layout, lambda fraction: progress("verifying", fraction))
    folder = _place_files(layout, destination / CHECKPOINT_FOLDER, progress)
    _check_tokenizer(folder)

    progress("loading", 0.0)
    device = "cpu" if task.hardware == "cpu" else "cuda"
    model = _load(folder, config, task.precision, device)
    progress("loading", 1.0)

    progress("checking", 0.0)
    try:
        decoding = choose_decoding(model, max_context, partial(progress, "checking"))
    except ModelBrokenError as error:
        raise _refused("MODEL_BROKEN", f"the model does not generate: {error}") from error
    if task.max_batch_tokens and decoding != "continuous":
        raise _refused(
            "UNSUPPORTED_BATCH_TOKENS",
            f"serving.max_batch_tokens: requests to a {type(model).__name__} are not batched, so "
            "there is nothing to limit; leave it out",
        )
    eos_token_ids = end_ids_of(model.generation_config)
    vocab_size: int = model.get_input_embeddings().weight.shape[0]
    manifest = EngineManifest(
        backend="torch",
        engine_kind="pytorch",
        checkpoint_digest=task.checkpoint_digest,
        architecture=type(model).__name__,
        parameter_count=layout.parameter_count,
        dtype=name_of_dtype(model.dtype),
        quantization=None,
        vocab_size=vocab_size,
        max_context=max_context,
        max_concurrent=task.max_concurrent,
        eos_token_ids=eos_token_ids,
        hardware=task.hardware,
        decoding=decoding,
        attention=str(model.config._attn_implementation),  # noqa: SLF001 - transformers' only name
        tokenizer=CHECKPOINT_FOLDER,
        kv_token_bytes=layout.token_bytes(model.dtype.itemsize),
        max_batch_tokens=task.max_batch_tokens or 0,
        guided_decoding=_can_be_guided(folder, vocab_size, eos_token_ids),
        versions=versions(),
    ).sealed(_below(CHECKPOINT_FOLDER, files))
    manifest.write(destination)
    progress("checking", 1.0)
    return manifest


def _read_config(layout: Layout) -> PretrainedConfig:
    """Return the configuration, if it is that of a causal language model known to transformers."""
    known = f"transformers {transformers.__version__}"
    model_type = layout.config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        own_code = " and brings code of its own, which is never run" * ("auto_map" in layout.config)
        raise _refused(
            "UNKNOWN_ARCHITECTURE",
            f"{known} does not know the model type {model_type!r} "
            f"(architecture {layout.architecture or 'not named'}){own_code}",
        )
    try:
        config = AutoConfig.from_pretrained(
            layout.directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise _refused("BAD_CONFIG", f"config.json cannot be used: {error}") from error
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        raise _refused(
            "NOT_A_CAUSAL_LM",
            f"{layout.architecture or model_type} is not a causal language model, "
            "which alone can be served",
        )
    _check_architecture(layout.architecture, model_class.__name__)
    return config


def _check_architecture(named: str, served: str) -> None:
    """Refuse weights that config.json says are those of something else than what is served.

    A class that ends in Model is the served one without its head: the weights tell whether a head
    is there (it is where it shares the embedding's).
    """
    if not named or named.casefold() == served.casefold():
        return
    if not hasattr(transformers, named):
        raise _refused(
            "UNKNOWN_ARCHITECTURE",
            f"transformers {transformers.__version__} does not know the architecture {named}; "
            f"for this model type it knows {served}",
        )
    if not named.endswith("Model"):
        raise _refused(
            "NOT_A_CAUSAL_LM", f"the weights are those of a {named}; a {served} can be served"
        )


def _max_context(config: PretrainedConfig, asked: int | None) -> int:
    own = own_context(config)
    if asked is None:
        return min(own or DEFAULT_MAX_CONTEXT, DEFAULT_MAX_CONTEXT)
    if own is not None and asked > own:
        raise _refused(
            "MAX_CONTEXT_TOO_LARGE",
            f"max_context {asked} is more than the {own} tokens that the model was made for",
        )
    if asked < _SMALLEST_CONTEXT:
        raise _refused(
            "MAX_CONTEXT_TOO_SMALL", f"max_context {asked} is less than {_SMALLEST_CONTEXT}"
        )
    return asked


def _place_files(layout: Layout, folder: Path, progress: Progress) -> Path:
    for number, name in enumerate(layout.files):
        progress("copying", number / len(layout.files))
        place(layout.directory / name, folder / name)
    progress("copying", 1.0)
    return folder


def _check_tokenizer(folder: Path) -> None:
    """Refuse a checkpoint that whoever serves it could not turn text into tokens for."""
    missing = (
        "the checkpoint has no usable tokenizer: it needs tokenizer.json, or the vocabulary files "
        "of its tokenizer, beside config.json"
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        if "custom code" in str(error):
            message = "its tokenizer brings code of its own, which is never run"
            raise _refused("NO_TOKENIZER", message) from error
        raise _refused("NO_TOKENIZER", f"{missing} ({error})") from error
    # Without any file transformers may make up one that knows its special tokens only.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise _refused("NO_TOKENIZER", missing)


def _can_be_guided(folder: Path, vocab_size: int, eos_token_ids: tuple[int, ...]) -> bool:
    """Return whether answers can be held to a grammar; the log has the reason why not."""
    try:
        read_tokenizer(folder, vocab_size, eos_token_ids)
    except UnknownTokenizerError as error:
        log.warning("no_guided_decoding", reason=str(error))
        return False
    return True


def _load(
    folder: Path, config: PretrainedConfig, precision: str | None, device: str
) -> PreTrainedModel:
    try:
        model, said = load_model(folder, precision, device)
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            message = f"the model does not fit into memory: {error}"
            raise EngineBuildError("OUT_OF_MEMORY", message, retryable=True) from error
        if getattr(config, "quantization_config", None):
            message = f"its quantization cannot be loaded here: {error}"
            raise _refused("UNSUPPORTED_QUANTIZATION", message) from error
        raise _refused("LOAD_FAILED", f"{type(error).__name__}: {error}") from error
    if mismatched := sorted(said["mismatched_keys"]):
        name, found, needed = mismatched[0]
        raise _refused(
            "BAD_WEIGHTS",
            f"{len(mismatched)} tensors are not as config.json has them, e.g. {name}: its shape is "
            f"{list(found)}, not {list(needed)}",
        )
    if missing := sorted(said["missing_keys"]):
        raise _refused(
            "MISSING_WEIGHTS",
            f"{len(missing)} tensors of the model are in no file, e.g. {missing[0]}",
        )
    return model


def _below(folder: str, files: dict[str, EngineFile]) -> dict[str, EngineFile]:
    return {f"{folder}/{name}": file for name, file in files.items()}


def _refused(code: str, message: str) -> EngineBuildError:
    return EngineBuildError(code, message, retryable=False)


def _as_build_error(error: Exception) -> EngineBuildError:
    if isinstance(error, EngineBuildError):
        return error
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return EngineBuildError("DISK_FULL", f"the disk is full: {error}", retryable=True)
    return EngineBuildError("BUILD_FAILED", f"{type(error).__name__}: {error}", retryable=True)


def _be_killed_first() -> None:
    """Have the kernel end this process, rather than one that serves, when memory runs out."""
    with suppress(OSError):  # where that is not for us to say
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> int:
    """Build what the command line says; return the exit status."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that no library's chatter comes among the events

    def tell(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    _be_killed_first()
    if threads := os.environ.get("ENGINESHED_TORCH_THREADS"):
        torch.set_num_threads(int(threads))
    task = TypeAdapter(BuildTask).validate_json(sys.argv[1])
    try:
        build(task, lambda stage, fraction: tell({"stage": stage, "fraction": fraction}))
    except Exception as error:  # noqa: BLE001 - each of them must reach the agent
        traceback.print_exc()
        known = _as_build_error(error)
        message = known.message[:_LONGEST_MESSAGE]
        tell({"error": {"code": known.code, "message": message, "retryable": known.retryable}})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
