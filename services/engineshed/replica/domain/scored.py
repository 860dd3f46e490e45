"""An answer whose tokens come with log probabilities."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from engineshed.replica.domain.answer import Answer, FinishReason, Limits
from engineshed.replica.domain.detokenizer import Decoding, Detokenizer

Spell: TypeAlias = Callable[[int], bytes]
"""Returns the bytes of UTF-8 that a token adds to a text; a character may span tokens."""


class Score(NamedTuple):
    """A token of an answer."""

    spelling: bytes
    """What it adds to the text."""
    logprob: float
    offset: int
    """Where in the answer its text begins, in characters."""


class _Waiting(NamedTuple):
    offset: int
    token: int
    logprob: float


class ScoredAnswer:
    """Text as of `Answer`, and a score for each token whose text was given out.

    A token that makes no text (an end token, say) has none, nor has one that a stop word cut off;
    what is held back is told later, together with its text.
    """

    def __init__(self, decoding: Decoding, spell: Spell, limits: Limits) -> None:
        self._silent = decoding.silent
        self._spell = spell
        self._detokenizer = _Measured(decoding)
        self._answer = Answer(decoding, limits, self._detokenizer)
        self._waiting: deque[_Waiting] = deque()
        self._given = 0

    @property
    def tokens(self) -> int:
        """How many tokens were generated."""
        return self._answer.tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """How it ended."""
        return self._answer.finish_reason

    @property
    def cut_short(self) -> bool:
        """Whether a stop word ended it."""
        return self._answer.cut_short

    def take(self, news: Sequence[tuple[int, float]]) -> str:
        """Take the next tokens and their log probabilities; return the text that became certain."""
        return "".join([self._take(token, logprob) for token, logprob in news])

    def end(self) -> str:
        """Take note that the engine ended the answer; return the rest of the text."""
        return self._count(self._answer.end())

    def scores(self) -> list[Score]:
        """Return the scores of tokens whose text was given out since the last call."""
        scores = []
        # What waits begins where the text ends that was made so far, and stop words hold back some.
        while self._waiting and self._waiting[0].offset < self._given:
            offset, token, logprob = self._waiting.popleft()
            scores.append(Score(self._spell(token), logprob, offset))
        return scores

    def _take(self, token: int, logprob: float) -> str:
        if self.finish_reason is not None:
            return ""
        if token not in self._silent:
            self._waiting.append(_Waiting(self._detokenizer.made, token, logprob))
        return self._count(self._answer.take([token]))

    def _count(self, text: str) -> str:
        self._given += len(text)
        return text


class _Measured(Detokenizer):
    """Knows how many characters it has made."""

    made = 0

    def add(self, ids: Sequence[int]) -> str:
        text = super().add(ids)
        self.made += len(text)
        return text
