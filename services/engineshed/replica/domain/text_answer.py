"""An answer that comes as text, of whose tokens the engine says nothing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from engineshed.replica.domain.answer import FinishReason, Limits
from engineshed.replica.domain.stop_words import StopWords


class TextPiece(NamedTuple):
    """What an engine sent next."""

    text: str
    finish_reason: FinishReason | None = None
    """How it ended, if it did and the engine says so."""


class TextAnswer:
    """Text while it comes, up to a stop word; the engine itself heeds end tokens and the limit."""

    def __init__(self, count: Callable[[str], int], limits: Limits) -> None:
        """Begin; `count` returns how many tokens a text has."""
        self._count = count
        self._limits = limits
        self._stop_words = StopWords(limits.stop)
        self._read = ""
        self.finish_reason: FinishReason | None = None
        self.cut_short = False

    @property
    def tokens(self) -> int:
        """How many tokens the text has, with the end token if it came to that; it is counted."""
        most = self._limits.max_tokens
        if self.finish_reason == "length":
            return most
        ended = self.finish_reason == "stop" and not self.cut_short
        return min(self._count(self._read) + ended, most)

    def take(self, news: Sequence[TextPiece]) -> str:
        """Take the next pieces; return the text that can be passed on."""
        return "".join([self._take(piece) for piece in news])

    def end(self) -> str:
        """Take note that the engine ended the answer; return the rest of the text."""
        if self.finish_reason is not None:
            return ""
        full = self._count(self._read) >= self._limits.max_tokens
        return self._end("length" if full else "stop")

    def _take(self, piece: TextPiece) -> str:
        if self.finish_reason is not None:
            return ""
        self._read += piece.text
        text = self._stop_words.feed(piece.text)
        if self._stop_words.found:
            self.finish_reason, self.cut_short = "stop", True
        elif piece.finish_reason is not None:
            text += self._end(piece.finish_reason)
        return text

    def _end(self, reason: FinishReason) -> str:
        self.finish_reason = reason
        return self._stop_words.finish()
