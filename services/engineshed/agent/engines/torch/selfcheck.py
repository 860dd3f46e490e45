"""Finding out, at build time, which way of decoding gives this very model's own answers.

The reference is `generate`, one request alone. A faster way is taken only where it gives the same
tokens: some architectures are silently wrong in a batch (gptj, mpt), some cannot be batched at all
(mamba), and one keeps the state of the request that it serves in its modules (recurrent_gemma).

The scores of the tokens are compared, too: a model that was hardly trained says almost the same
whatever it has read, and a few tokens of it do not tell a right way from a wrong one.
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from engineshed.agent.engines.torch.continuous import BatchLimits, ContinuousDecoder
from engineshed.agent.engines.torch.generation import Decoder, Generation
from engineshed.agent.engines.torch.loading import end_ids_of
from engineshed.agent.engines.torch.sampling import Processors
from engineshed.agent.engines.torch.sequential import SequentialDecoder
from engineshed.triton.engine import Decoding

log = structlog.get_logger()

_PROMPT_LENGTHS: Final = (1, 5, 17, 40, 90, 160)
"""Together more than continuous batching takes in one step on a CPU, so that it splits one."""
_NEW_TOKENS: Final = 8
_TIMEOUT_SECONDS: Final = 600.0
_ROUNDINGS: Final = 4.0
"""How many roundings apart two scores may be to pass for equal in half precision."""
_ALONE: Final = 0.7
"""How much of the check are the answers to each prompt alone; the rest are those to all at once."""
_DEVIATION: Final = 1e-3
_HALF_DEVIATION: Final = 0.1
"""By how much of the largest score any may deviate. Right ways deviate by about 1e-6 in float32,
wrong ones by 1e-2 and more."""


class ModelBrokenError(Exception):
    """The model does not generate, not even alone."""


@dataclass(slots=True)
class _Answer:
    """The tokens of an answer, and for each the scores that it was chosen by."""

    tokens: list[int] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)


def choose_decoding(
    model: PreTrainedModel, max_context: int, progress: Callable[[float], None]
) -> Decoding:
    """Return the fastest way of decoding that gives the answers of `generate`.

    Args:
        model: what decodes.
        max_context: the most tokens of prompt and answer together.
        progress: called with how much of the check is done, 0 to 1: a large model takes a while.

    Raises:
        ModelBrokenError: `generate` itself fails, or yields no numbers.

    """
    prompts = _prompts(model, max_context)
    expected: list[_Answer] = []
    try:
        for prompt in prompts:
            expected.append(_generate_alone(model, prompt))
            progress(_ALONE * len(expected) / len(prompts))
    except Exception as error:
        raise ModelBrokenError(f"{type(error).__name__}: {error}") from error

    def continuous(processors: Processors) -> Decoder:
        return ContinuousDecoder(model, BatchLimits(max_context, len(prompts)), processors)

    def sequential(processors: Processors) -> Decoder:
        return SequentialDecoder(model, len(prompts), processors)

    if reason := _why_not_continuous(model, max_context):
        log.info("continuous_batching_ruled_out", reason=reason)
    elif _agrees(continuous, model, prompts, expected):
        return "continuous"
    if _agrees(sequential, model, prompts, expected):
        return "sequential"
    return "exclusive"


def _prompts(model: PreTrainedModel, max_context: int) -> list[list[int]]:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    dice = random.Random(0)  # noqa: S311 - any tokens will do, the same ones each time
    return [
        [dice.randrange(vocabulary) for _ in range(length)]
        for length in _PROMPT_LENGTHS
        if length + _NEW_TOKENS <= max_context
    ]


@torch.inference_mode()
def _generate_alone(model: PreTrainedModel, prompt: list[int]) -> _Answer:
    input_ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=_NEW_TOKENS,
        output_scores=True,
        return_dict_in_generate=True,
    )
    scores = [step[0].float() for step in output.scores]
    if any(bool(step.isnan().any()) for step in scores):
        raise ModelBrokenError("its scores are not numbers (NaN); try precision float32")
    return _Answer(output.sequences[0, len(prompt) :].tolist(), scores)


def _why_not_continuous(model: PreTrainedModel, max_context: int) -> str:
    if not model._supports_attention_backend:  # noqa: SLF001 - transformers has no other way to ask
        return f"{type(model).__name__} has an attention of its own"
    if processors := _own_processors(model):
        return f"generation_config.json asks for {', '.join(processors)}"
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    # One for all layers, or one for each kind of layer.
    for each in [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]:
        original = each.get("original_max_position_embeddings") or 0
        if each.get("rope_type") in {"dynamic", "longrope"} and max_context > original:
            return f"beyond {original} tokens its positions depend on the length of the request"
    return ""


def _own_processors(model: PreTrainedModel) -> list[str]:
    """Return what generation_config.json does to the scores of a greedy choice."""
    # `generate` has these three steps in it; there is no public way to have them alone.
    config, _ = model._prepare_generation_config(None, max_length=2)  # noqa: SLF001 - see above
    model._prepare_special_tokens(config, True, model.device, 1)  # noqa: SLF001 - see above
    processors = model._get_logits_processor(config, 1, device=model.device)  # noqa: SLF001 - see above
    return [type(processor).__name__ for processor in processors]


def _agrees(
    start: Callable[[Processors], Decoder],
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    expected: Sequence[_Answer],
) -> bool:
    """Return whether the decoder gives the expected answers to all prompts at once."""
    try:
        answers = _answers(start, prompts, frozenset(end_ids_of(model.generation_config)))
    except Exception as error:  # noqa: BLE001 - however it fails, this way is not for this model
        log.info("decoding_ruled_out", reason=f"{type(error).__name__}: {error}")
        return False
    different = [
        len(prompt)
        for prompt, right, answer in zip(prompts, expected, answers, strict=True)
        if not _same(right, answer, model.dtype)
    ]
    if different:
        log.info("decoding_ruled_out", reason=f"other answers to prompts of {different} tokens")
    return not different


def _answers(
    start: Callable[[Processors], Decoder],
    prompts: Sequence[list[int]],
    end_ids: frozenset[int],
) -> list[_Answer]:
    """Have all prompts answered at once."""
    # Each has a length of its own, by which a decoder's processors tell whose scores they see.
    answers = {len(prompt): _Answer() for prompt in prompts}

    def recorder(generation: Generation, _: torch.device) -> LogitsProcessorList:
        return LogitsProcessorList([_Recorder(answers[len(generation.prompt)].scores)])

    replies = [_Collected() for _ in prompts]
    decoder = start(recorder)
    try:
        for index, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            decoder.submit(Generation(str(index), prompt, _NEW_TOKENS, end_ids), reply)
        for prompt, reply in zip(prompts, replies, strict=True):
            answers[len(prompt)].tokens = reply.wait()
    finally:
        decoder.close()
    return list(answers.values())


def _same(expected: _Answer, answer: _Answer, dtype: torch.dtype) -> bool:
    """Return whether the answer is the expected one, for the same reasons.

    In half precision the order of additions decides between scores that are all but equal, so there
    the first difference counts only if the model itself sees one.
    """
    half = dtype != torch.float32
    for index, right in enumerate(expected.tokens):
        if index >= min(len(answer.tokens), len(answer.scores)):
            return False
        scores = expected.scores[index]
        if not _close(scores, answer.scores[index], _HALF_DEVIATION if half else _DEVIATION):
            return False
        given = answer.tokens[index]
        if given != right:
            gap = (scores[right] - scores[given]).abs()
            return half and bool(gap <= _ROUNDINGS * torch.finfo(dtype).eps * _largest(scores))
    return len(answer.tokens) == len(expected.tokens)


def _close(expected: Tensor, scores: Tensor, deviation: float) -> bool:
    """Return whether the scores are the same but for roundings; some may be ruled out (-inf)."""
    return torch.allclose(scores, expected, rtol=0.0, atol=deviation * float(_largest(expected)))


def _largest(scores: Tensor) -> Tensor:
    return scores[scores.isfinite()].abs().max()


class _Recorder(LogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """Leaves the scores as they are, and keeps a copy."""

    def __init__(self, kept: list[Tensor]) -> None:
        self._kept = kept

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        """Return the same scores."""
        self._kept.append(scores[0].float().clone())
        return scores


class _Collected:
    """A reply that is waited for."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._error = ""
        self._complete = threading.Event()

    def token(self, token: int, log_probability: float | None = None) -> None:  # noqa: ARG002 - the interface
        self._tokens.append(token)

    def finish(self) -> None:
        self._complete.set()

    def fail(self, message: str) -> None:
        self._error = message
        self._complete.set()

    def wait(self) -> list[int]:
        if not self._complete.wait(_TIMEOUT_SECONDS):
            raise TimeoutError("the decoder does not answer")
        if self._error:
            raise ModelBrokenError(self._error)
        return self._tokens
