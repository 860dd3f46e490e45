"""What a request asks for, and what a decoder is: the words that the runtime's parts share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor  # takes seconds to import, and what reads requests needs none

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
    bias: npt.NDArray[np.float32] | None = None
    """Added to the scores of all tokens, or of the first so many."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """The answer holds none of these."""
    min_tokens: int = 0
    """The answer does not end with an end token before it has so many."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < _GREEDY_BELOW or self.top_k == 1


GREEDY: Final = Sampling(temperature=0.0)


class Constraint(Protocol):
    """What rules out tokens of one request; it holds state."""

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        """Return the scores [1, vocabulary] with those of tokens that may not come next at -inf.

        `input_ids` [1, length] are the request's tokens so far, those of the prompt included.
        """
        ...


@dataclass(frozen=True, slots=True)
class Guide:
    """What an answer is held to, as the request says it."""

    kind: str
    """`json`, `json_schema`, `regex` or `ebnf_grammar`."""
    text: str
    """The schema, the expression, the grammar; "" for `json`."""


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
    log_probabilities: bool = False
    """Whether the reply hears the log probability of each token."""
    guide: Guide | None = None
    constraint: Constraint | None = None
    """What comes of the guide; whoever has it compiled puts it here."""

    def ends_with_stop_word(self, answer: Sequence[int]) -> bool:
        """Whether `answer` now ends with a stop word."""
        return any(tuple(answer[-len(word) :]) == word for word in self.stop_words)


class Reply(Protocol):
    """Where the answer to one request goes; called from the decoder's threads.

    After `finish` or `fail` nothing more is said. After a cancel nothing need be said.
    """

    def token(self, token: int, log_probability: float | None = None) -> None:
        """Take the next token, with its log probability if the generation asks for it."""
        ...

    def finish(self) -> None:
        """Take note that the answer is complete."""
        ...

    def fail(self, message: str) -> None:
        """Take note that there will be no more, and why."""
        ...


@dataclass(frozen=True, slots=True)
class Cache:
    """The room that a decoder has for keys and values, in blocks."""

    blocks: int
    used: int
    block_tokens: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What a decoder is doing. It is read while the decoder goes on, so it may be a step behind."""

    scheduled: int
    """Requests that take part in the steps."""
    waiting: int
    """Requests that wait until they may."""
    iterations: int
    """Steps since it was started."""
    cache: Cache | None = None
    """None where keys and values have no room set aside."""


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

    @property
    def activity(self) -> Activity:
        """What it is doing; cheap, and may be asked from any thread."""
        ...
