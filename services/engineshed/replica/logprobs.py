"""Log probabilities of tokens, in the shapes that OpenAI's API gives them."""

from collections.abc import Sequence
from typing import Any, Final

from engineshed.replica.domain.scored import Score

_LEAST: Final = -9999.0
"""OpenAI's word for a token that could hardly come; JSON has no infinity."""


def of_chat(scores: Sequence[Score]) -> dict[str, Any]:
    """Return what a choice of a chat has."""
    content = [
        {
            "token": _shown(score),
            "logprob": _finite(score),
            "bytes": list(score.spelling),
            "top_logprobs": [],
        }
        for score in scores
    ]
    return {"content": content, "refusal": None}


def of_completion(scores: Sequence[Score]) -> dict[str, Any]:
    """Return what a choice of a completion has."""
    return {
        "tokens": [_shown(score) for score in scores],
        "token_logprobs": [_finite(score) for score in scores],
        "top_logprobs": None,
        "text_offset": [score.offset for score in scores],
    }


def _shown(score: Score) -> str:
    """Return the token as text; bytes that are no text by themselves in hexadecimal."""
    return score.spelling.decode(errors="backslashreplace")


def _finite(score: Score) -> float:
    return score.logprob if score.logprob > _LEAST else _LEAST  # NaN is above nothing
