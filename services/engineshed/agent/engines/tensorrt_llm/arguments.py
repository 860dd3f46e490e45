"""The command lines of the programs that build engines. Pure."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path

from engineshed.agent.engines.interface import EngineBuildError
from engineshed.agent.engines.tensorrt_llm.plan import BuildPlan


def convert_arguments(
    plan: BuildPlan, options: Set[str], model: Path, output: Path
) -> tuple[str, ...]:
    """Return the arguments of a family's convert_checkpoint.py.

    Args:
        plan: what to build.
        options: those that the script has; every family's has others.
        model: the checkpoint's folder.
        output: where the converted one goes.

    Raises:
        EngineBuildError: the script lacks one that is needed.

    """
    needed: list[tuple[Sequence[str], str | None]] = [
        (("--model_dir", "--model-dir"), str(model)),
        (("--output_dir", "--output-model-dir"), str(output)),
        (("--dtype",), plan.dtype),
    ]
    if plan.tp_size > 1:
        needed.append((("--tp_size", "--world-size"), str(plan.tp_size)))
    if plan.weight_only:
        needed.append((("--use_weight_only",), None))
        needed.append((("--weight_only_precision",), plan.weight_only))
    helpful: list[tuple[str, str | None]] = [
        ("--ckpt-type", "hf"),  # of scripts that read others, too
        ("--pp_size", "1"),
        ("--workers", str(plan.tp_size)),
    ]
    arguments: list[str] = []
    for names, value in needed:
        name = next((each for each in names if each in options), None)
        if name is None:
            raise EngineBuildError(
                "TOOLCHAIN_MISMATCH",
                f"the conversion script of this TensorRT-LLM has no {names[0]}, which "
                "this model needs",
                retryable=False,
            )
        arguments += [name, *([value] if value is not None else [])]
    for name, value in helpful:
        if name in options:
            arguments += [name, *([value] if value is not None else [])]
    return tuple(arguments)


def quantize_arguments(plan: BuildPlan, model: Path, texts: Path, output: Path) -> tuple[str, ...]:
    """Return the arguments of quantize.py.

    Args:
        plan: what to build; it has a quantization that is calibrated.
        model: the checkpoint's folder.
        texts: the folder of what it is calibrated with.
        output: where the quantized one goes.

    """
    quantizing = plan.quantizing
    assert quantizing is not None, "this route is taken for what is calibrated"
    arguments = {
        "model_dir": str(model),
        "output_dir": str(output),
        "dtype": plan.dtype,
        "qformat": quantizing.qformat,
        "kv_cache_dtype": quantizing.kv_cache_dtype,
        "awq_block_size": quantizing.awq_block_size,
        "calib_dataset": str(texts),
        "calib_size": quantizing.samples,
        "calib_max_seq_length": quantizing.sample_tokens,
        "tp_size": plan.tp_size,
        "pp_size": 1,
    }
    return _written(arguments)


def build_arguments(plan: BuildPlan, checkpoint: Path, engine: Path) -> tuple[str, ...]:
    """Return the arguments of trtllm-build: every limit, so that no default of a version counts.

    Args:
        plan: what to build.
        checkpoint: the converted checkpoint's folder.
        engine: where the engine goes.

    """
    arguments = {
        "checkpoint_dir": str(checkpoint),
        "output_dir": str(engine),
        **asdict(plan.limits),
        **plan.features,
        "workers": plan.tp_size,
        "log_level": "info",
    }
    return _written(arguments)


def tokenizer_info_arguments(model: Path, output: Path) -> tuple[str, ...]:
    """Return the arguments of generate_xgrammar_tokenizer_info.py."""
    return _written({"model_dir": str(model), "output_dir": str(output)})


def _written(arguments: Mapping[str, object]) -> tuple[str, ...]:
    given = ((name, value) for name, value in arguments.items() if value is not None)
    return tuple(word for name, value in given for word in (f"--{name}", str(value)))
