"""Guided decoding: an answer that fits what the guide asks for, as tokens."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .asks import RefusedError

_NOT_SET_UP: Final = (
    "Request is specified with GuidedDecodingParams, but GuidedDecoder is not setup."
)
_SIMPLE: Final[Mapping[str, Any]] = {
    "string": "a",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
    "object": {},
    "array": [],
}


class Guides:
    """What makes answers that fit.

    Args:
        tokenizer: the text of a tokenizer.json; None: guided decoding is not set up.

    """

    def __init__(self, tokenizer: str | None) -> None:
        self._tokenizer = None
        if tokenizer is not None:
            from tokenizers import Tokenizer  # large, and needed for this alone

            self._tokenizer = Tokenizer.from_str(tokenizer)

    def tokens(self, kind: str, guide: str) -> list[int]:
        """Return the tokens of a small answer that fits.

        Raises:
            RefusedError: nothing can fit, or it was not set up.

        """
        if self._tokenizer is None:
            raise RefusedError(_NOT_SET_UP)
        text = json.dumps(_fitting(kind, guide), separators=(",", ":"))
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        said = self._tokenizer.decode(tokens)
        if "".join(said.split()) != "".join(text.split()):
            raise RefusedError(f"The vocabulary has no tokens for {text}")
        return tokens


def read_tokenizer(parameters: Mapping[str, str]) -> str | None:
    """Return the tokenizer that the model's parameters name, if they set guided decoding up."""
    if parameters.get("guided_decoding_backend") != "xgrammar":
        return None
    if info := parameters.get("xgrammar_tokenizer_info_path"):
        found: str = json.loads(Path(info).read_text())["tokenizer_str"]
        return found
    raise RefusedError("Guided decoding requires xgrammar_tokenizer_info_path to be set.")


def _fitting(kind: str, guide: str) -> Any:
    if kind == "json":
        return {"answer": 1}
    if kind != "json_schema":
        raise RefusedError(f"Unsupported guided decoding guide type: {kind}")
    try:
        schema = json.loads(guide)
    except ValueError as error:
        raise RefusedError(f"Failed to parse the JSON schema: {error}") from error
    return _example(schema, schema)


def _example(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return a small value that fits a schema."""
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise RefusedError(f"Failed to parse the JSON schema: {schema!r} is none")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if reference := schema.get("$ref"):
        return _example(_resolve(reference, root), root)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _example(schema[several][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    match kind:
        case "object":
            required = schema.get("required", ())
            properties = schema.get("properties", {})
            return {name: _example(properties.get(name, True), root) for name in required}
        case "array":
            return [_example(schema.get("items", True), root)] * schema.get("minItems", 1)
        case "string":
            return "a" * max(1, schema.get("minLength", 1))
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", _SIMPLE[kind]))
        case _ if kind in _SIMPLE:
            return _SIMPLE[kind]
    raise RefusedError(f"Failed to parse the JSON schema: unsupported type {kind}")


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found
