"""An engine behind a front: what it is asked for, and how it may fail.

`tokens` and `llmapi` have the two that there are. Each sequence is a call of its own, and whoever
is cancelled while it reads one cancels the call, so that Triton tells the engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from engineshed.replica.domain.answer import Growing, Limits
from engineshed.triton.failures import request_error
from engineshed.triton.infer import InferenceError
from engineshed.triton.refusal import Refusal

LONGEST_SECONDS: Final = 24 * 3600.0
"""No answer takes longer. What hangs is noticed by `health`, much earlier."""
LEAST_TOP_P: Final = 1e-6
"""Leaves the likeliest token alone, as OpenAI's 0 does; to NVIDIA's back end 0 means not set."""

Arrived: TypeAlias = Callable[[Sequence[Any]], None]
"""Takes what is new of a sequence, in the form that the engine's own answers take. A call for each
response costs less than an iterator on every floor would."""


class EngineError(Exception):
    """The engine did not answer a request to its end; the message is Triton's."""


class EngineUnavailableError(EngineError):
    """Triton cannot be reached, or has no room: the engine works on as much as it can."""


class EngineRefusedError(EngineError):
    """The engine does not take this request.

    Attributes:
        param: the parameter that it does not take, if one is known to be the reason.

    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Guide:
    """What an answer is held to."""

    kind: Literal["json", "json_schema"]
    """As NVIDIA's back end names them: any JSON object, or one that a schema describes."""
    schema: str = ""
    """The schema, as JSON."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine is asked for: one continuation of one prompt."""

    prompt: Sequence[int]
    max_tokens: int
    text: str = ""
    """The prompt, for an engine that takes text."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    seed: int | None = None
    """Any integer of 64 bits. None: the engine chooses."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    """So many tokens come before one that ends the answer."""
    guide: Guide | None = None
    scored: bool = False
    """Whether the log probability of each token is wanted."""


class Engine(Protocol):
    """An engine in a Triton on this host.

    Attributes:
        offers: the parameters of OpenAI's API that it can honour, besides those that the front
            honours by itself.
        takes_ids: whether a prompt may be token ids that came of no text.
        gone: set it when Triton has ended: then nobody waits for it to have room again.

    """

    offers: frozenset[str]
    takes_ids: bool
    gone: bool

    def answer(self, limits: Limits, *, scored: bool) -> Growing[Any]:
        """Return an answer that grows with what this engine gives to `arrived`."""
        ...

    async def generate(self, generation: Generation, request_id: str, arrived: Arrived) -> None:
        """Give what comes to `arrived`, never nothing, until the engine ends the sequence.

        Raises:
            EngineUnavailableError: Triton is gone or full.
            EngineRefusedError: the request is not for this engine.
            EngineError: it failed.

        """
        ...

    async def close(self) -> None:
        """Cancel what is running and disconnect."""
        ...


def explain(error: InferenceError) -> EngineError:
    """Return what an error of Triton means: NVIDIA's back end calls all of them internal."""
    if error.refusal is Refusal.UNAVAILABLE:
        return EngineUnavailableError(error.message)
    match request_error(error.message):
        case "QUEUE_FULL":
            return EngineUnavailableError(error.message)
        case "BAD_GUIDE":
            return EngineRefusedError(error.message, param="response_format")
        case "PROMPT_TOO_LONG":
            return EngineRefusedError(error.message)
    if error.refusal is Refusal.INVALID_ARGUMENT:
        return EngineRefusedError(error.message)
    return EngineError(error.message)
