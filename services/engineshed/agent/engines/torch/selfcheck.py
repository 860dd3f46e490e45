"""Finding out, at build time, which way of decoding gives this very model's own answers.

The reference is `generate`, one request alone. A faster way is taken only where it gives the same
tokens: some architectures are silently wrong in a batch (gptj, mpt), some cannot be batched at all
(mamba), and one keeps the state of the request that it serves in its modules (recurrent_gemma).
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import torch
from transformers import PreTrainedModel

from engineshed.agent.engines.torch.continuous import ContinuousDecoder
from engineshed.agent.engines.torch.generation import Decoder, Generation
from engineshed.agent.engines.torch.loading import end_ids_of
from engineshed.agent.engines.torch.sequential import SequentialDecoder
from engineshed.triton.engine import Decoding

log = structlog.get_logger()

_PROMPT_LENGTHS: Final = (1, 5, 17, 40, 90)
_NEW_TOKENS: Final = 8
_TIMEOUT_SECONDS: Final = 600.0
_ROUNDINGS: Final = 4.0
"""How many roundings apart two scores may be to pass for equal in half precision."""


class ModelBrokenError(Exception):
    """The model does not generate, not even alone."""


def choose_decoding(model: PreTrainedModel, max_context: int) -> Decoding:
    """Return the fastest way of decoding that gives the answers of `generate`.

    Raises:
        ModelBrokenError: `generate` itself fails, or yields no numbers.

    """
    prompts = _prompts(model, max_context)
    try:
        expected = [_generate_alone(model, prompt) for prompt in prompts]
    except Exception as error:
        raise ModelBrokenError(f"{type(error).__name__}: {error}") from error
    if reason := _why_not_continuous(model, max_context):
        log.info("continuous_batching_ruled_out", reason=reason)
    elif _agrees(lambda: ContinuousDecoder(model, max_context, 8), model, prompts, expected):
        return "continuous"
    if _agrees(lambda: SequentialDecoder(model, len(prompts)), model, prompts, expected):
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
def _generate_alone(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    input_ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=_NEW_TOKENS
    )
    answer: list[int] = output[0, len(prompt) :].tolist()
    if bool(_next_scores(model, prompt).isnan().any()):
        raise ModelBrokenError("its scores are not numbers (NaN); try precision float32")
    return answer


@torch.inference_mode()
def _next_scores(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    input_ids = torch.tensor([tokens], device=model.device)
    scores: torch.Tensor = model(input_ids).logits[0, -1].float()
    return scores


def _why_not_continuous(model: PreTrainedModel, max_context: int) -> str:
    if not model._supports_attention_backend:  # noqa: SLF001 - transformers has no other way to ask
        return f"{type(model).__name__} has an attention of its own"
    if processors := _own_processors(model):
        return f"generation_config.json asks for {', '.join(processors)}"
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") in {"dynamic", "longrope"}:
        original = rope.get("original_max_position_embeddings") or 0
        if max_context > original:
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
    start: Callable[[], Decoder],
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    expected: Sequence[list[int]],
) -> bool:
    """Return whether the decoder gives the expected answers to all prompts at once."""
    try:
        answers = _answers(start(), prompts, frozenset(end_ids_of(model.generation_config)))
    except Exception as error:  # noqa: BLE001 - however it fails, this way is not for this model
        log.info("decoding_ruled_out", reason=f"{type(error).__name__}: {error}")
        return False
    different = [
        len(prompt)
        for prompt, right, answer in zip(prompts, expected, answers, strict=True)
        if not _same(model, prompt, right, answer)
    ]
    if different:
        log.info("decoding_ruled_out", reason=f"other tokens for prompts of {different} tokens")
    return not different


def _answers(
    decoder: Decoder, prompts: Sequence[list[int]], end_ids: frozenset[int]
) -> list[list[int]]:
    replies = [_Collected() for _ in prompts]
    try:
        for index, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            decoder.submit(Generation(str(index), prompt, _NEW_TOKENS, end_ids), reply)
        return [reply.wait() for reply in replies]
    finally:
        decoder.close()


def _same(
    model: PreTrainedModel, prompt: list[int], expected: list[int], answer: list[int]
) -> bool:
    """Return whether the answer is the expected one.

    In half precision the order of additions decides between scores that are all but equal, so there
    the first difference counts only if the model itself sees one.
    """
    if answer == expected:
        return True
    common = next(
        (i for i, (a, b) in enumerate(zip(answer, expected, strict=False)) if a != b), None
    )
    if common is None or model.dtype == torch.float32:
        return False
    scores = _next_scores(model, prompt + expected[:common])
    gap = (scores[expected[common]] - scores[answer[common]]).abs()
    return bool(gap <= _ROUNDINGS * torch.finfo(model.dtype).eps * scores.abs().max())


class _Collected:
    """A reply that is waited for."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._error = ""
        self._complete = threading.Event()

    def token(self, token: int) -> None:
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
