"""Text from token ids as they come, a piece at a time.

The pieces joined are what the tokenizer makes of all ids at once. That is harder than it looks: a
character may span tokens, a tokenizer may treat the first token differently, a run of byte tokens
is text or garbage as a whole, and some tokenizers tidy up spaces afterwards. So text is given out
once nothing that follows can change it.

Only the last few tokens are decoded again for a new one, so a token costs the same whether it is
the tenth or the ten thousandth.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final

_CONTEXT: Final = 8
"""Tokens that stay in the window because decoders look back. A character has four bytes at most,
so that many tokens always hold the start of one."""
_WINDOW: Final = 24
"""Tokens in the window from which on it is worth while to drop the oldest."""
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_TIDIED: Final = " 'nvr"
"""The characters, but the last, of what `clean_up` looks for: " .", " n't", " 've", …"""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a tokenizer turns ids into text."""

    decode: Callable[[list[int]], str]
    """All of its steps but the tidying up of spaces."""
    silent: Container[int] = frozenset()
    """Ids that leave no trace in the text: special tokens."""
    bytes_: Container[int] = frozenset()
    """Ids of single bytes that become text only together with their neighbours (byte fallback)."""
    clean_up: Callable[[str], str] | None = None
    """Removes spaces before punctuation and English contractions, where the tokenizer does so."""
    revises: bool = False
    """Whether the text of the last token may still change with the next one."""


class Detokenizer:
    """The text of one answer."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._window: list[int] = []
        self._given = 0  # how many characters of the window's text were given out
        self._run = 0  # how many ids at the end of the window are single bytes
        self._settled = 0  # how many ids of the window have been looked at
        self._limit = _WINDOW
        self._untidy = ""  # text whose last spaces may yet be removed

    def add(self, ids: Sequence[int]) -> str:
        """Take the next ids; return the text that they made certain, often none."""
        for token in ids:
            if token in self._decoding.silent:
                continue
            self._window.append(token)
            self._run = self._run + 1 if token in self._decoding.bytes_ else 0
        settled = len(self._window) - self._run
        if settled == self._settled:
            return ""
        self._settled = settled
        text = self._certain(settled)
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        if settled > self._limit:
            self._shorten(settled)
        return self._tidy(piece)

    def finish(self) -> str:
        """Return the rest: no more ids will come."""
        text = self._decoding.decode(self._window)
        rest = self._untidy + text[self._given :]
        return self._decoding.clean_up(rest) if self._decoding.clean_up else rest

    def _certain(self, settled: int) -> str:
        """Return the text of the window that no further id can change."""
        text = self._decoding.decode(self._window[:settled])
        if self._decoding.revises:
            text = _common_prefix(text, self._decoding.decode(self._window[: settled - 1]))
        # It may be the beginning of a character; what is before it is not.
        return text.removesuffix(_REPLACEMENT)

    def _shorten(self, settled: int) -> None:
        """Drop the oldest ids of the window, if what is left gives the same end of the text."""
        whole = self._decoding.decode(self._window[:settled])
        kept = self._window[settled - _CONTEXT :]
        text = self._decoding.decode(kept[:_CONTEXT])
        pending = len(whole) - self._given
        if len(text) > pending and whole.endswith(text[-pending - 1 :]):
            self._window, self._given = kept, len(text) - pending
            self._settled, self._limit = _CONTEXT, _WINDOW
        else:  # no text in so many tokens: try again later, ever more rarely
            self._limit *= 2

    def _tidy(self, piece: str) -> str:
        """Return the part of the text that tidying up is done with.

        It removes a space only together with what follows it, at most three characters. So text
        may be cut before the first space after which nothing stands but beginnings of those.
        """
        if self._decoding.clean_up is None:
            return piece
        text = self._untidy + piece
        end = len(text.rstrip(_TIDIED))
        space = text.find(" ", end)
        cut = len(text) if space < 0 else space
        self._untidy = text[cut:]
        return self._decoding.clean_up(text[:cut])


def _common_prefix(one: str, other: str) -> str:
    length = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:length]
