"""Choosing the next token: each request brings its own processors of logits.

They are transformers' own where it has them. The choice itself is always the largest score: a
request that samples adds noise of its own to the scores (Gumbel-max, which draws from the softmax
exactly), from a generator of its own. So a seed means the same whatever runs beside it.
"""

import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engineshed.agent.engines.torch.generation import Sampling

_SMALLEST: Final = torch.finfo(torch.float32).tiny

Processors: TypeAlias = Callable[[Sampling, int, torch.device], LogitsProcessorList]
"""What `processors_for` is, and what a decoder can be given in its place to look on."""


def processors_for(
    sampling: Sampling, prompt_length: int, device: torch.device
) -> LogitsProcessorList:
    """Return what turns the logits of one request into scores whose largest is the next token.

    Each takes the request's tokens so far [1, length] and its scores [1, vocabulary]. Empty when
    the logits are the scores. They hold state: use them for one request only.
    """
    chosen: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chosen.append(
            AnswerPenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt_length)
        )
    if not sampling.greedy:
        if sampling.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            chosen.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(TopPLogitsWarper(sampling.top_p))
        chosen.append(OwnNoise(sampling.seed, device))
    return LogitsProcessorList(chosen)


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
