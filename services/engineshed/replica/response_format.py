"""What a caller wants an answer held to."""

import json
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from engineshed.replica.engine import Guide
from engineshed.replica.strictness import Strict

MAX_SCHEMA_BYTES: Final = 64 * 1024


class JsonSchema(Strict):
    """What a JSON answer must look like."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None  # an engine that is held to a schema is held to it strictly

    @property
    def canonical(self) -> str:
        """The schema as JSON without spaces, its keys in their order: answers follow that order."""
        return json.dumps(self.schema_, ensure_ascii=False, separators=(",", ":"))


class ResponseFormat(Strict):
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
