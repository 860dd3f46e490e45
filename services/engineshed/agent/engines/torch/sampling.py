"""Choosing the next token: each request brings its own processors of logits.

They are transformers' own where it has them. The choice itself is always the largest score: a
request that samples adds noise of its own to the scores (Gumbel-max, which draws from the softmax
exactly), from a generator of its own. So a seed means the same whatever runs beside it.
"""

import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engineshed.agent.engines.torch.generation import Generation

_SMALLEST: Final = torch.finfo(torch.float32).tiny

Processors: TypeAlias = Callable[[Generation, torch.device], LogitsProcessorList]
"""What `processors_for` is, and what a decoder can be given in its place to look on."""


def processors_for(generation: Generation, device: torch.device) -> LogitsProcessorList:
    """Return what turns the logits of one request into scores whose largest is the next token.

    Each takes the request's tokens so far [1, length] and its scores [1, vocabulary]. Empty when
    the logits are the scores. They hold state: use them for one request only.
    """
    sampling, prompt_length = generation.sampling, len(generation.prompt)
    chosen: list[LogitsProcessor] = []
    if sampling.bias is not None:
        chosen.append(Bias(sampling.bias, device))
    if generation.constraint is not None:
        chosen.append(generation.constraint)
    if sampling.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chosen.append(
            AnswerPenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt_length)
        )
    if bans := _bans(generation, device):
        chosen.append(UnlessNothingIsLeft(bans))
    if not sampling.greedy:
        if sampling.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            chosen.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(TopPLogitsWarper(sampling.top_p))
        chosen.append(OwnNoise(sampling.seed, device))
    return LogitsProcessorList(chosen)


def _bans(generation: Generation, device: torch.device) -> LogitsProcessorList:
    """Return what rules out tokens that the request does not want."""
    sampling, ends = generation.sampling, sorted(generation.end_ids)
    bans: list[LogitsProcessor] = []
    if sampling.bad_words:
        words = [list(word) for word in sampling.bad_words]
        bans.append(NoBadWordsLogitsProcessor(words, eos_token_id=None))
    if sampling.min_tokens and ends:
        bans.append(
            MinNewTokensLengthLogitsProcessor(
                len(generation.prompt), sampling.min_tokens, ends, device=device
            )
        )
    return LogitsProcessorList(bans)


class Noted(LogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """Leaves the scores as they are, and tells afterwards how likely a token was by them."""

    def __init__(self) -> None:
        self._scores = torch.empty(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        """Return the same scores."""
        self._scores = scores.clone()  # a decoder may go on in the same memory
        return scores

    def log_probability(self, token: int) -> float:
        """Return the logarithm of the token's share in the softmax of the last scores."""
        scores = self._scores[0].float()
        return float(scores[token] - scores.logsumexp(0))


class Bias(LogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """Adds to each token's score what the request wants added."""

    def __init__(self, bias: npt.NDArray[np.float32], device: torch.device) -> None:
        self._bias = torch.from_numpy(bias).to(device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        """Return the scores with the bias, as far as it and they go."""
        size = min(self._bias.shape[0], scores.shape[-1])
        biased = scores.clone()
        biased[:, :size] += self._bias[:size]
        return biased


class UnlessNothingIsLeft(LogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """Rules out tokens as the processors in it do, but not the last one.

    Where an answer is held to a grammar, the only token that may follow may be one of them.
    """

    def __init__(self, bans: LogitsProcessorList) -> None:
        self._bans = bans

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores without what is ruled out, or as they are if that is everything."""
        left = self._bans(input_ids, scores)
        return torch.where(left.isfinite().any(), left, scores)


class AnswerPenalty(LogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """OpenAI's presence and frequency penalties: they count what the answer holds so far."""

    def __init__(self, presence: float, frequency: float, prompt_length: int) -> None:
        self._presence = presence
        self._frequency = frequency
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with the penalties taken off."""
        answer = input_ids[0, self._prompt_length :]
        counts = torch.bincount(answer, minlength=scores.shape[-1]).to(scores.dtype)
        return scores - self._frequency * counts - self._presence * (counts > 0)


class OwnNoise(LogitsProcessor):  # type: ignore[misc]  # transformers has no types for mypy
    """Adds Gumbel noise, so that taking the largest score is drawing from their softmax."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        self._generator.manual_seed(secrets.randbits(63) if seed is None else seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the interface
        """Return the scores with fresh noise."""
        noise = torch.empty_like(scores).exponential_(generator=self._generator)
        return scores - noise.clamp_min_(_SMALLEST).log_()
