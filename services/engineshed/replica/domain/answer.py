"""One answer: token ids in, text out, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from engineshed.replica.domain.detokenizer import Decoding, Detokenizer
from engineshed.replica.domain.stop_words import StopWords

FinishReason: TypeAlias = Literal["stop", "length"]
News = TypeVar("News", contravariant=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends an answer."""

    max_tokens: int
    end_ids: frozenset[int] = frozenset()
    """Any of these tokens; it counts as generated."""
    stop: tuple[str, ...] = ()
    """Any of these texts; it is not part of the answer."""


class Growing(Protocol[News]):
    """An answer that grows with what an engine sends.

    Attributes:
        tokens: how many tokens were generated up to the end.
        finish_reason: how it ended; None while it goes on.
        cut_short: whether something ended it of which the engine knows nothing.

    """

    @property
    def tokens(self) -> int: ...  # noqa: D102 - see above

    @property
    def finish_reason(self) -> FinishReason | None: ...  # noqa: D102 - see above

    @property
    def cut_short(self) -> bool: ...  # noqa: D102 - see above

    def take(self, news: Sequence[News]) -> str:
        """Take what comes next; return the text that it made certain."""
        ...

    def end(self) -> str:
        """Take note that the engine ended the answer; return the rest of the text."""
        ...


class Answer:
    """The text of a sequence of tokens while they come, and the reason why they ended.

    `tokens` counts what was generated up to the end: the end token too, and the token that
    completed a stop word. Tokens that come after the end are neither counted nor read.
    """

    def __init__(
        self, decoding: Decoding, limits: Limits, detokenizer: Detokenizer | None = None
    ) -> None:
        self._limits = limits
        self._detokenizer = detokenizer or Detokenizer(decoding)
        self._stop_words = StopWords(limits.stop)
        self.tokens = 0
        self.finish_reason: FinishReason | None = None
        self.cut_short = False
        """Whether a stop word ended it, of which the engine knows nothing."""

    def take(self, ids: Sequence[int]) -> str:
        """Take the next token ids; return the text that they made certain."""
        if not self._limits.stop:
            return self._take(ids)
        # One by one, so that the count does not depend on how many came together.
        return "".join([self._take([token]) for token in ids])

    def end(self) -> str:
        """Take note that the engine ended the answer; return the rest of the text."""
        if self.finish_reason is not None:
            return ""
        return self._end("stop")

    def _take(self, ids: Sequence[int]) -> str:
        if self.finish_reason is not None:
            return ""
        ids = ids[: self._limits.max_tokens - self.tokens]
        ended = next((i for i, token in enumerate(ids) if token in self._limits.end_ids), None)
        if ended is not None:
            ids = ids[: ended + 1]
        self.tokens += len(ids)
        text = self._stop_words.feed(self._detokenizer.add(ids))
        if self._stop_words.found:
            self.finish_reason, self.cut_short = "stop", True
        elif ended is not None:
            text += self._end("stop")
        elif self.tokens >= self._limits.max_tokens:
            text += self._end("length")
        return text

    def _end(self, reason: FinishReason) -> str:
        text = self._stop_words.feed(self._detokenizer.finish())
        if self._stop_words.found:
            reason = "stop"
        self.finish_reason = reason
        return text + self._stop_words.finish()
