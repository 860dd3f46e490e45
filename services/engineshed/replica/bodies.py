"""Bodies of answers, whole and as server-sent events."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from engineshed.replica.domain.answer import FinishReason
from engineshed.replica.domain.scored import Score
from engineshed.replica.logprobs import of_chat, of_completion

DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were read and generated."""

    prompt_tokens: int
    completion_tokens: int

    def as_json(self) -> dict[str, int]:
        """Return it as OpenAI shows it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class Head:
    """What all bodies of one answer have in common."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str
    system_fingerprint: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers, whole."""

    index: int
    text: str
    reason: FinishReason | None
    scores: Sequence[Score] | None
    """None: they were not asked for."""


class Bodies:
    """The bodies of one answer; a subclass for each endpoint."""

    WHOLE: ClassVar[str]
    CHUNK: ClassVar[str]
    ID_PREFIX: ClassVar[str]

    def __init__(self, head: Head, *, with_usage: bool) -> None:
        """Prepare; `with_usage` is whether a stream ends with the usage."""
        self.with_usage = with_usage
        self._head = head
        # A chunk is put together from text: its frame is the same for all of a stream.
        self._before = f"data: {_dumps(self._fields(self.CHUNK))[:-1]},"
        self._after = ',"usage":null}\n\n' if with_usage else "}\n\n"

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """Return the answer in one body."""
        fields = self._fields(self.WHOLE) | {
            "choices": [self.choice(choice) for choice in choices],
            "usage": usage.as_json(),
        }
        return _dumps(fields).encode()

    def usage(self, usage: Usage) -> bytes:
        """Return the chunk that tells the usage."""
        return f'{self._before}"choices":[],"usage":{_dumps(usage.as_json())}}}\n\n'.encode()

    def chunk(self, choice: str) -> bytes:
        """Return the chunk with a choice."""
        return f'{self._before}"choices":[{choice}]{self._after}'.encode()

    def opening(self, index: int) -> bytes:
        """Return what comes before a choice's text."""
        raise NotImplementedError

    def text(self, index: int, text: str, scores: Sequence[Score]) -> bytes:
        """Return the chunk with the next text of a choice, and scores if it has some."""
        raise NotImplementedError

    def closing(self, index: int, reason: FinishReason) -> bytes:
        """Return the chunk that says how a choice ended."""
        raise NotImplementedError

    def choice(self, choice: Choice) -> Mapping[str, Any]:
        """Return a choice of the whole answer."""
        raise NotImplementedError

    def _fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._head.id,
            "object": kind,
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": self._head.system_fingerprint,
        }


class ChatBodies(Bodies):
    """Of POST /v1/chat/completions."""

    WHOLE = "chat.completion"
    CHUNK = "chat.completion.chunk"
    ID_PREFIX = "chatcmpl-"

    def opening(self, index: int) -> bytes:
        """Return the chunk that says who speaks."""
        return self._delta(index, '{"role":"assistant","content":"","refusal":null}', None)

    def text(self, index: int, text: str, scores: Sequence[Score]) -> bytes:
        """Return the chunk with the next text of a choice."""
        logprobs = _dumps(of_chat(scores)) if scores else "null"
        return self._delta(index, f'{{"content":{_dumps(text)}}}', None, logprobs)

    def closing(self, index: int, reason: FinishReason) -> bytes:
        """Return the chunk that says how a choice ended."""
        return self._delta(index, "{}", reason)

    def choice(self, choice: Choice) -> Mapping[str, Any]:
        """Return a choice of the whole answer."""
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": None if choice.scores is None else of_chat(choice.scores),
            "finish_reason": choice.reason,
        }

    def _delta(
        self, index: int, delta: str, reason: FinishReason | None, logprobs: str = "null"
    ) -> bytes:
        return self.chunk(
            f'{{"index":{index},"delta":{delta},"logprobs":{logprobs},'
            f'"finish_reason":{_ended(reason)}}}'
        )


class CompletionBodies(Bodies):
    """Of POST /v1/completions."""

    WHOLE = "text_completion"
    CHUNK = "text_completion"
    ID_PREFIX = "cmpl-"

    def opening(self, index: int) -> bytes:  # noqa: ARG002 - the interface
        """Return nothing: the text comes at once."""
        return b""

    def text(self, index: int, text: str, scores: Sequence[Score]) -> bytes:
        """Return the chunk with the next text of a choice."""
        logprobs = _dumps(of_completion(scores)) if scores else "null"
        return self._text(index, text, None, logprobs)

    def closing(self, index: int, reason: FinishReason) -> bytes:
        """Return the chunk that says how a choice ended."""
        return self._text(index, "", reason)

    def choice(self, choice: Choice) -> Mapping[str, Any]:
        """Return a choice of the whole answer."""
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": None if choice.scores is None else of_completion(choice.scores),
            "finish_reason": choice.reason,
        }

    def _text(
        self, index: int, text: str, reason: FinishReason | None, logprobs: str = "null"
    ) -> bytes:
        return self.chunk(
            f'{{"index":{index},"text":{_dumps(text)},"logprobs":{logprobs},'
            f'"finish_reason":{_ended(reason)}}}'
        )


def _ended(reason: FinishReason | None) -> str:
    return "null" if reason is None else f'"{reason}"'


# One encoder for all: `json.dumps` makes one for each call, which takes longer than the text.
_dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
