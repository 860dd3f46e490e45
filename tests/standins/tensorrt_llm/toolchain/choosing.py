"""How the stand-in chooses tokens: by scores that are a pure function of the tokens before.

The scores are noise, spread over the vocabulary, so that temperature, top-k, penalties and biases
mean what they mean with a real model; and the same tokens before always give the same scores.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .asks import Ask, Words

_SPREAD = 2.0
_NEVER = -1e9
_UNLIKELY = -30.0
_MODULUS = (1 << 61) - 1

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    token: int
    log_prob: float


class Chooser:
    """Chooses tokens of one vocabulary.

    Args:
        vocab_size: ids are below it.
        avoided: ids that are taken only where something asks for them: special tokens, and those
            that are no text.

    """

    def __init__(self, vocab_size: int, avoided: Sequence[int]) -> None:
        dice = np.random.default_rng(vocab_size)
        self._noise = dice.normal(scale=_SPREAD, size=(2, vocab_size))
        self._avoided = np.array([token for token in avoided if token < vocab_size], np.int64)

    def choose(self, ask: Ask, answer: Sequence[int], forced: int | None = None) -> Choice:
        """Return the next token of an answer; `forced` if that is given."""
        scores = self._scores([*ask.prompt, *answer])
        if ask.bias is not None:
            scores += ask.bias
        _penalize(scores, ask, answer)
        _forbid(scores, ask, answer)
        if ask.temperature > 0:
            scores /= ask.temperature
        log_probs = scores - scores.max()
        log_probs -= np.log(np.exp(log_probs).sum())
        token = _sample(log_probs, ask, len(answer)) if forced is None else forced
        return Choice(token, float(log_probs[token]))

    def _scores(self, tokens: Sequence[int]) -> Scores:
        state = 1
        for token in tokens:
            state = (state * 1_000_003 + token + 1) % _MODULUS
        size = self._noise.shape[1]
        first, second = self._noise
        scores: Scores = np.roll(first, state % size) + np.roll(second, state // size % size)
        scores[self._avoided] += _UNLIKELY
        return scores


def ends_with_word(answer: Sequence[int], words: Words) -> bool:
    """Return whether the last tokens of the answer are one of the words."""
    return any(word and tuple(answer[-len(word) :]) == word for word in words)


def _penalize(scores: Scores, ask: Ask, answer: Sequence[int]) -> None:
    for token, count in Counter((*ask.prompt, *answer)).items():
        if not 0 <= token < len(scores):
            continue
        scores[token] -= ask.presence_penalty + ask.frequency_penalty * count
        factor = ask.repetition_penalty
        scores[token] *= factor if scores[token] < 0 else 1 / factor


def _forbid(scores: Scores, ask: Ask, answer: Sequence[int]) -> None:
    for word in ask.bad_words:
        if word and (len(word) == 1 or tuple(answer[-len(word) + 1 :]) == word[:-1]):
            scores[word[-1]] = _NEVER
    if ask.end_id >= 0 and len(answer) < ask.min_tokens:
        scores[ask.end_id] = _NEVER


def _sample(log_probs: Scores, ask: Ask, position: int) -> int:
    if ask.top_k == 1 or ask.temperature <= 0:
        return int(log_probs.argmax())
    order = np.argsort(-log_probs, kind="stable")
    if ask.top_k:
        order = order[: ask.top_k]
    probabilities = np.exp(log_probs[order])
    probabilities /= probabilities.sum()
    cumulated = np.cumsum(probabilities)
    kept = int(np.searchsorted(cumulated, min(ask.top_p, cumulated[-1]))) + 1
    point = np.random.default_rng((ask.seed, position)).random() * cumulated[kept - 1]
    return int(order[min(int(np.searchsorted(cumulated, point)), kept - 1)])
