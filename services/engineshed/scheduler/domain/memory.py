"""Whether what is asked for fits into the memory of its GPUs, and what would."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engineshed.api.catalog.v1.checkpoint_service_pb2 import Checkpoint
from engineshed.errors import FieldError
from engineshed.fit import (
    GIB,
    Estimate,
    ModelShape,
    Plan,
    capability_of,
    estimate,
    nearest_fits,
    unsupported,
)
from engineshed.scheduler.domain.backends import TENSORRT_LLM
from engineshed.scheduler.domain.errors import DoesNotFitError, ShapeUnknownError
from engineshed.scheduler.domain.node import CPU
from engineshed.scheduler.domain.replica import Serving

# What any GPU that compiled engines run on can do; narrower types need a newer one.
_QUANTIZATIONS: Final = ("int8_wo", "int4_awq")


@dataclass(frozen=True, slots=True)
class Hardware:
    """The GPUs that a replica gets, and how many it could have instead."""

    gpu_type: str
    gpu_count: int
    gpu_memory_bytes: int  # of each; 0: it is not known
    gpu_counts: tuple[int, ...]  # ascending
    backends: frozenset[str]  # of the nodes that have them

    @property
    def parallel(self) -> bool:
        """Whether a back end is there that divides a model among such GPUs."""
        return TENSORRT_LLM in self.backends and not unsupported(capability_of(self.gpu_type))


@dataclass(frozen=True, slots=True)
class Answer:
    """What an estimate says."""

    asked: Estimate
    alternatives: Sequence[Estimate]  # that fit; none where what was asked for does


def require_fit(
    checkpoint: Checkpoint, serving: Serving, hardware: Hardware, measured_bytes: int = 0
) -> None:
    """Refuse what certainly has no room; what is not known is left to whoever builds it.

    Args:
        checkpoint: what is served.
        serving: how.
        hardware: on what.
        measured_bytes: what just this was seen to take of each GPU without the pool; 0: nobody saw.

    Raises:
        DoesNotFitError: it says the numbers, and what would fit.

    """
    if not _shape(checkpoint).known or not hardware.gpu_memory_bytes:
        return
    answer = _answer(checkpoint, serving, hardware, measured_bytes)
    if not answer.asked.fits:
        raise _refusal(answer, hardware)


def estimated(
    checkpoint: Checkpoint, serving: Serving, hardware: Hardware, measured_bytes: int = 0
) -> Answer:
    """Return what is estimated; see `require_fit`.

    Raises:
        ShapeUnknownError: the checkpoint or the GPUs are not known well enough.

    """
    if not _shape(checkpoint).known:
        raise ShapeUnknownError(
            f"the config.json of checkpoint {checkpoint.checkpoint_id} does not say enough for an "
            "estimate, or it was registered by an older version",
            checkpoint_id=checkpoint.checkpoint_id,
        )
    if not hardware.gpu_memory_bytes:
        message = f"the memory of a {hardware.gpu_type} GPU is not known"
        if hardware.gpu_type == CPU:
            message = (
                "a model on cpu takes its host's memory, which its agent looks at before a build; "
                "name a GPU type"
            )
        raise ShapeUnknownError(message, gpu_type=hardware.gpu_type)
    return _answer(checkpoint, serving, hardware, measured_bytes)


def _answer(
    checkpoint: Checkpoint, serving: Serving, hardware: Hardware, measured_bytes: int
) -> Answer:
    shape = _shape(checkpoint)
    plan = Plan(
        hardware.gpu_memory_bytes,
        hardware.gpu_count if hardware.parallel else 1,
        serving.precision,
        serving.quantization,
        serving.max_context,
        serving.max_batch_tokens,
        serving.kv_cache_fraction,
        measured_bytes,
    )
    asked = estimate(shape, plan)
    if asked.fits:
        return Answer(asked, ())
    gpu_counts = hardware.gpu_counts if hardware.parallel else ()
    narrower = () if serving.quantization else _narrower(checkpoint, hardware)
    return Answer(asked, nearest_fits(shape, plan, gpu_counts, narrower))


def _narrower(checkpoint: Checkpoint, hardware: Hardware) -> list[str]:
    if not hardware.parallel:
        return []
    capability = capability_of(hardware.gpu_type)
    return [
        name
        for name in _QUANTIZATIONS
        if not unsupported(capability, name, checkpoint.architecture)
    ]


def _shape(checkpoint: Checkpoint) -> ModelShape:
    shape = checkpoint.shape
    return ModelShape(
        parameters=checkpoint.parameter_count,
        quantizable=shape.quantizable_parameters,
        weight_bytes=shape.weight_bytes,
        layers=shape.attending_layers,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        latent=shape.latent_values,
        hidden=shape.hidden_size,
        experts=shape.experts,
        max_context=checkpoint.max_position_embeddings,
    )


def _refusal(answer: Answer, hardware: Hardware) -> DoesNotFitError:
    asked = answer.asked
    gpus = "the" if asked.plan.gpu_count == 1 else f"each of {asked.plan.gpu_count}"
    message = (
        f"the model does not fit: {gpus} {hardware.gpu_type} has "
        f"{_gib(asked.plan.gpu_memory_bytes)}; there {_fixed(asked)} and each token "
        f"{asked.token_bytes / 1024:.0f} KiB, which leaves room for {asked.max_tokens:,} of "
        f"{asked.needed_context:,} tokens; {_ways_out(answer)}"
    )
    field = "serving.max_context" if asked.max_tokens else "gpu_count"
    return DoesNotFitError(
        message,
        fields=[FieldError(field, message)],
        gpu_type=hardware.gpu_type,
        needed_bytes=asked.needed_bytes,
        gpu_memory_bytes=asked.plan.gpu_memory_bytes,
        max_tokens=asked.max_tokens,
    )


def _fixed(asked: Estimate) -> str:
    if asked.plan.measured_bytes:
        return f"the engine with its weights was measured to take {_gib(asked.fixed_bytes)}"
    return (
        f"the weights take {_gib(asked.weight_bytes)}, the engine and CUDA "
        f"{_gib(asked.activation_bytes + asked.reserved_bytes)}"
    )


def _ways_out(answer: Answer) -> str:
    if not answer.alternatives:
        return "choose GPUs with more memory, or a smaller model"
    changes = [_changes(answer.asked.plan, one.plan) for one in answer.alternatives]
    return f"it would fit with {', or with '.join(changes)}"


def _changes(old: Plan, new: Plan) -> str:
    """Return what is different of a plan."""
    fields = (
        ("serving.max_context", old.max_context, new.max_context),
        ("gpu_count", old.gpu_count, new.gpu_count),
        ("serving.quantization", old.quantization, new.quantization),
        ("serving.max_batch_tokens", old.max_batch_tokens, new.max_batch_tokens),
        ("serving.kv_cache_fraction", old.kv_cache_fraction, new.kv_cache_fraction),
    )
    return " and ".join(f"{name} {after}" for name, before, after in fields if before != after)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
