"""Bodies of requests, strictly: what is not understood is refused by name, never ignored.

Parameters that this API does not honour may stand at the value that changes nothing, which is what
clients send that spell out OpenAI's defaults.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from engineshed.replica.engine import Guide
from engineshed.replica.errors import ApiError, invalid
from engineshed.replica.response_format import ResponseFormat
from engineshed.replica.strictness import Strict, only, unless_null

MAX_N: Final = 8
MAX_PROMPTS: Final = 64
MAX_STOP_WORDS: Final = 4
MAX_STOP_LENGTH: Final = 1000

R = TypeVar("R", bound="GenerationRequest")

_MANY_ERRORS: Final = 1000
"""From so many on, telling the first of them would take as long as telling all."""
_TAGS: Final = ("<one>", "<many>", "<ids>", "<lists>")
"""Names of a union's members: pydantic puts them into the path, where nobody wants them."""


def _by_shape(value: object) -> str:
    """Tell which member of a union a value is meant for, so that its errors are that one's."""
    if not isinstance(value, list):
        return "<one>"
    if value and isinstance(value[0], list):
        return "<lists>"
    return "<ids>" if value and isinstance(value[0], int) else "<many>"


def _one_or_many(value: object) -> str:
    return "<many>" if isinstance(value, list) else "<one>"


# Parameters that are accepted where they change nothing.
Unset: TypeAlias = Annotated[JsonValue, only(None)]
UnsetOrEmpty: TypeAlias = Annotated[JsonValue, only(None, [])]

Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False), unless_null(0.0)]
Count: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]
TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
StopWord: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: Annotated[bool, unless_null(False)] = False
    include_obfuscation: Annotated[JsonValue, only(None, False)] = None


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("<one>")]
        | Annotated[list[TextPart], Tag("<many>"), Field(min_length=1, fail_fast=True)],
        Discriminator(_one_or_many),
    ]
    name: str | None = None
    # What an answer carries when it is sent back as it came.
    refusal: Unset = None
    annotations: UnsetOrEmpty = None
    audio: Unset = None
    tool_calls: UnsetOrEmpty = None
    function_call: Unset = None

    @property
    def text(self) -> str:
        """The content; its parts, if it has any, on lines of their own."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class GenerationRequest(Strict):
    """What both kinds of requests have."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), unless_null(1.0)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), unless_null(1.0)] = 1.0
    n: Annotated[int, Field(ge=1, le=MAX_N), unless_null(1)] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[
            Annotated[StopWord, Tag("<one>")]
            | Annotated[
                list[StopWord], Tag("<many>"), Field(max_length=MAX_STOP_WORDS, fail_fast=True)
            ],
            Discriminator(_one_or_many),
        ]
        | None
    ) = None
    stream: Annotated[bool, unless_null(False)] = False
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    # Not OpenAI's but vLLM's.
    min_tokens: Annotated[int, Field(ge=0, lt=2**31), unless_null(0)] = 0
    user: str | None = None
    logit_bias: Annotated[JsonValue, only(None, {})] = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> "GenerationRequest":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "stream_options", "stream_options is only allowed when stream is true"
            )
        return self

    @property
    def stop_words(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def asked_tokens(self) -> tuple[str, int | None]:
        """The parameter that says how long the answer may be, and what it says."""
        return "max_tokens", self.max_tokens

    @property
    def scored(self) -> bool:
        """Whether log probabilities are wanted."""
        return False

    @property
    def guide(self) -> Guide | None:
        """What the answer is held to."""
        return None

    def asks_for(self) -> Iterator[str]:
        """Yield parameters that say more than their default, and that not every engine honours."""
        if self.temperature != 1:
            yield "temperature"
        if self.top_p != 1:
            yield "top_p"
        if self.seed is not None:
            yield "seed"
        if self.presence_penalty:
            yield "presence_penalty"
        if self.frequency_penalty:
            yield "frequency_penalty"
        if self.min_tokens:
            yield "min_tokens"
        if self.scored:
            yield "logprobs"
        if self.guide is not None:
            yield "response_format"


class ChatRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Count | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    parallel_tool_calls: bool | None = None
    store: Annotated[JsonValue, only(None, False)] = None
    logprobs: Annotated[bool, unless_null(False)] = False
    top_logprobs: Annotated[JsonValue, only(None, 0)] = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[JsonValue, only(None, ["text"])] = None
    tools: UnsetOrEmpty = None
    tool_choice: Annotated[JsonValue, only(None, "none", "auto")] = None
    functions: UnsetOrEmpty = None
    function_call: Annotated[JsonValue, only(None, "none", "auto")] = None
    audio: Unset = None
    prediction: Unset = None
    prompt_cache_retention: Unset = None
    reasoning_effort: Unset = None
    verbosity: Unset = None
    web_search_options: Unset = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if None not in {self.max_tokens, self.max_completion_tokens} and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise PydanticCustomError(
                "max_completion_tokens",
                "max_completion_tokens and max_tokens say different things; send one of them",
            )
        return self

    @property
    def asked_tokens(self) -> tuple[str, int | None]:
        """The parameter that says how long the answer may be, and what it says."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().asked_tokens

    @property
    def scored(self) -> bool:
        """Whether log probabilities are wanted."""
        return self.logprobs

    @property
    def guide(self) -> Guide | None:
        """What the answer is held to."""
        return None if self.response_format is None else self.response_format.guide


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: Annotated[
        Annotated[str, Tag("<one>")]
        | Annotated[
            list[str],
            Tag("<many>"),
            Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True),
        ]
        | Annotated[list[TokenId], Tag("<ids>"), Field(fail_fast=True)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]],
            Tag("<lists>"),
            Field(max_length=MAX_PROMPTS, fail_fast=True),
        ],
        Discriminator(_by_shape),
    ]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31), unless_null(16)] = 16
    best_of: int | None = None
    echo: Annotated[JsonValue, only(None, False)] = None
    logprobs: Annotated[int | None, only(None, 0)] = None
    suffix: Unset = None

    @model_validator(mode="after")
    def _best_of_is_n(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != self.n:
            raise PydanticCustomError("best_of", "best_of is only supported when it equals n")
        return self

    @property
    def scored(self) -> bool:
        """Whether log probabilities are wanted: 0 asks for those of the answer's own tokens."""
        return self.logprobs is not None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """Each of the prompts, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


def parse(model: type[R], body: bytes) -> R:
    """Return the request in `body`.

    Raises:
        ApiError: 400 that names the parameter.

    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() >= _MANY_ERRORS:
            raise invalid("The body is wrong in very many places.", param=None) from None
        raise _explain(error.errors(include_url=False)[0]) from None


def _explain(error: ErrorDetails) -> ApiError:
    param = _path([part for part in error["loc"] if part not in _TAGS])
    kind, text = error["type"], error["msg"]
    if kind == "json_invalid":
        return invalid(f"The body is not valid JSON: {text}", param=None, code="invalid_json")
    if kind in {"stream_options", "max_completion_tokens", "best_of"}:  # checks across parameters
        return invalid(text, param=kind)
    if kind == "response_format":
        return invalid(f"response_format {text}.", param=kind)
    if not param:
        return invalid("The body must be a JSON object.", param=None, code="invalid_type")
    explain = _EXPLANATIONS.get(kind)
    if explain is not None:
        message, code = explain(param, text)
        return invalid(message, param=param, code=code)
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return invalid(f"{param}: {text}.", param=param, code=code)


_EXPLANATIONS: Final[dict[str, Callable[[str, str], tuple[str, str]]]] = {
    "extra_forbidden": lambda param, _: (f"Unknown parameter: '{param}'.", "unknown_parameter"),
    "missing": lambda param, _: (
        f"Missing required parameter: '{param}'.",
        "missing_required_parameter",
    ),
    "unsupported": lambda param, text: (f"{param} {text}.", "unsupported_parameter"),
}


def _path(parts: Sequence[int | str]) -> str:
    path: Any = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return str(path)
