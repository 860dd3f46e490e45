"""Reading bodies strictly: nothing is ignored, and nothing is taken for what it is not."""

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, JsonValue
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """An object whose fields are all known, and of just these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def only(*allowed: JsonValue) -> AfterValidator:
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


def unless_null(default: object) -> BeforeValidator:
    """Take null for the default."""
    return BeforeValidator(lambda value: default if value is None else value)
