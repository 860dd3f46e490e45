"""Bodies of requests, strictly: what is not understood is refused by name, never ignored.

Parameters that this API does not honour may stand at the value that changes nothing, which is what
clients send that spell out OpenAI's defaults.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
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

MAX_N: Final = 8
MAX_PROMPTS: Final = 64
MAX_STOP_WORDS: Final = 4
MAX_STOP_LENGTH: Final = 1000
MAX_SCHEMA_BYTES: Final = 64 * 1024

R = TypeVar("R", bound="GenerationRequest")

_MANY_ERRORS: Final = 1000
"""From so many on, telling the first of them would take as long as telling all."""
_TAGS: Final = ("<one>", "<many>", "<ids>", "<lists>")
"""Names of a union's members: pydantic puts them into the path, where nobody wants them."""


def _only(*allowed: JsonValue) -> AfterValidator:
    """Accept nothing but values that change nothing."""

    def check(value: JsonValue) -> JsonValue:
        if value in allowed:
            return value
        if allowed == (None,):
            raise PydanticCustomError("unsupported", "is not supported; leave it out")
        shown = " or ".join(repr(one) for one in allowed if one is not None)
        raise PydanticCustomError(
            "unsupported", "is not supported; leave it out or send {shown}", {"shown": shown}
        )

    return AfterValidator(check)


def _by_shape(value: object) -> str:
    """Tell which member of a union a value is meant for, so that its errors are that one's."""
    if not isinstance(value, list):
        return "<one>"
    if value and isinstance(value[0], list):
        return "<lists>"
    return "<ids>" if value and isinstance(value[0], int) else "<many>"


def _one_or_many(value: object) -> str:
    return "<many>" if isinstance(value, list) else "<one>"


def _or(default: object) -> BeforeValidator:
    """Take null for the default."""
    return BeforeValidator(lambda value: default if value is None else value)


# Parameters that are accepted where they change nothing.
Unset: TypeAlias = Annotated[JsonValue, _only(None)]
UnsetOrEmpty: TypeAlias = Annotated[JsonValue, _only(None, [])]

Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False), _or(0.0)]
Count: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]
TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
StopWord: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: Annotated[bool, _or(False)] = False
    include_obfuscation: Annotated[JsonValue, _only(None, False)] = None


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_Strict):
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


class JsonSchema(_Strict):
    """What a JSON answer must look like."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None  # an engine that is held to a schema is held to it strictly

    @property
    def canonical(self) -> str:
        """The schema as JSON without spaces, its keys in their order: answers follow that order."""
        return json.dumps(self.schema_, ensure_ascii=False, separators=(",", ":"))


class ResponseFormat(_Strict):
    """What an answer is held to."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _a_schema_where_it_belongs(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "response_format",
                'must have json_schema when its type is "json_schema", and only then',
            )
        if self.json_schema and len(self.json_schema.canonical.encode()) > MAX_SCHEMA_BYTES:
            raise PydanticCustomError(
                "response_format",
                "has a schema of more than {limit} KiB",
                {"limit": MAX_SCHEMA_BYTES // 1024},
            )
        return self

    @property
    def guide(self) -> Guide | None:
        """What an engine is told; None: it is free."""
        if self.type == "text":
            return None
        if self.json_schema is None:
            return Guide("json")
        return Guide("json_schema", self.json_schema.canonical)


class GenerationRequest(_Strict):
    """What both kinds of requests have."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), _or(1.0)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _or(1.0)] = 1.0
    n: Annotated[int, Field(ge=1, le=MAX_N), _or(1)] = 1
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
    stream: Annotated[bool, _or(False)] = False
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    # Not OpenAI's but vLLM's.
    min_tokens: Annotated[int, Field(ge=0, lt=2**31), _or(0)] = 0
    user: str | None = None
    logit_bias: Annotated[JsonValue, _only(None, {})] = None

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
    store: Annotated[JsonValue, _only(None, False)] = None
    logprobs: Annotated[bool, _or(False)] = False
    top_logprobs: Annotated[JsonValue, _only(None, 0)] = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[JsonValue, _only(None, ["text"])] = None
    tools: UnsetOrEmpty = None
    tool_choice: Annotated[JsonValue, _only(None, "none", "auto")] = None
    functions: UnsetOrEmpty = None
    function_call: Annotated[JsonValue, _only(None, "none", "auto")] = None
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
    max_tokens: Annotated[int, Field(ge=1, lt=2**31), _or(16)] = 16
    best_of: int | None = None
    echo: Annotated[JsonValue, _only(None, False)] = None
    logprobs: Annotated[JsonValue, _only(None, 0)] = None
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
