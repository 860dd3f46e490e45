"""Stop words: the answer ends before the first of them."""

from collections.abc import Sequence


class StopWords:
    """Passes text on until it holds a stop word.

    The word that is complete first ends the text; of those complete at the same character the one
    that began first. So the result does not depend on the pieces in which the text comes.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._held = ""  # what may be the beginning of a stop word
        self.found = False

    def feed(self, text: str) -> str:
        """Take the next text; return what can be passed on, which may have been held back before.

        Once `found` is true the text is over and nothing more is passed on.
        """
        if not self._words:
            return text
        text = self._held + text
        ends = [
            (start + len(word), start) for word in self._words if (start := text.find(word)) >= 0
        ]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        held = max(_overlap(text, word) for word in self._words)
        cut = len(text) - held
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """Return what was held back: no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, word: str) -> int:
    """Return how many characters at the end of `text` are the beginning of `word`."""
    start = max(0, len(text) - len(word) + 1)
    while (start := text.find(word[0], start)) >= 0:
        if word.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0
