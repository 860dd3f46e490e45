"""What a request asks for, and what a decoder is: the words that the runtime's parts share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

_GREEDY_BELOW: Final = 1e-5
"""A temperature under which dividing by it only overflows."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 1.0
    top_k: int = 0
    """How many of the likeliest tokens stay in the choice; 0: all."""
    top_p: float = 1.0
    """The mass of probability that stays in the choice, after temperature and top_k."""
    seed: int | None = None
    repetition_penalty: float = 1.0
    """Divides what prompt and answer already hold, as in transformers."""
    presence_penalty: float = 0.0
    """Taken once from each token that the answer holds, as OpenAI defines it."""
    frequency_penalty: float = 0.0
    """Taken from each token for every time that the answer holds it."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < _GREEDY_BELOW or self.top_k == 1


GREEDY: Final = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Generation:
    """One request: continue `prompt`."""

    request_id: str
    """Unique among those in flight."""
    prompt: Sequence[int]
    max_new_tokens: int
    end_ids: frozenset[int] = frozenset()
    """The answer ends with the first of these; it is part of the answer."""
    stop_words: tuple[tuple[int, ...], ...] = ()
    """The answer ends as soon as it ends with one of these."""
    sampling: Sampling = GREEDY

    def ends_with_stop_word(self, answer: Sequence[int]) -> bool:
        """Whether `answer` now ends with a stop word."""
        return any(tuple(answer[-len(word) :]) == word for word in self.stop_words)


class Reply(Protocol):
    """Where the answer to one request goes; called from the decoder's threads.

    After `finish` or `fail` nothing more is said. After a cancel nothing need be said.
    """

    def token(self, token: int) -> None:
        """Take the next token."""
        ...

    def finish(self) -> None:
        """Take note that the answer is complete."""
        ...

    def fail(self, message: str) -> None:
        """Take note that there will be no more, and why."""
        ...


class Decoder(Protocol):
    """A loaded model that works on many requests at once."""

    def submit(self, generation: Generation, reply: Reply) -> None:
        """Start on a request. Its limits were checked before."""
        ...

    def cancel(self, request_id: str) -> None:
        """Stop working on a request at the next step; unknown ones are none of our business."""
        ...

    def close(self) -> None:
        """Drop what is in flight and end all threads."""
        ...

    @property
    def broken(self) -> bool:
        """Whether no request can succeed any more; all in flight were told."""
        ...
