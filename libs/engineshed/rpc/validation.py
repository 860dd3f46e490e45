"""Refuses requests that break a rule which their proto states."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from buf.validate import validate_pb2
from engineshed.errors import DomainError, FieldError, Kind
from engineshed.rpc.quick_rules import QuickRules

if TYPE_CHECKING:
    from protovalidate import Validator


class InvalidRequestError(DomainError):
    """The request breaks a rule that its proto states."""

    kind = Kind.INVALID
    reason = "INVALID_FIELD"


class RequestValidator:
    """Holds requests against the rules of their protos."""

    def __init__(self) -> None:
        self._quick = QuickRules()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="validate")

    async def check(self, request: Message) -> None:
        """Let a valid request pass.

        Raises:
            InvalidRequestError: it breaks rules; each is told with its field.
        """
        if self._quick.certainly_keeps(request):
            return
        # What is long takes long, so that is looked for first.
        fields = _too_long(request)
        if not fields:
            loop = asyncio.get_running_loop()
            fields = await loop.run_in_executor(self._thread, self._violations, request)
        if fields:
            text = "; ".join(f"{item.field}: {item.message}" for item in fields)
            raise InvalidRequestError(text, fields=fields)

    def _violations(self, request: Message) -> list[FieldError]:
        return [
            FieldError(_path(item.proto.field), item.proto.message or item.proto.rule_id)
            for item in self._validator.collect_violations(request)
        ]

    @cached_property
    def _validator(self) -> "Validator":
        # It takes 10 MB and a fifth of a second to load, and most processes never need it.
        from protovalidate import Validator

        return Validator()  # type: ignore[no-untyped-call]  # untyped in the library


def _too_long(request: Message) -> list[FieldError]:
    """Return which lists of the request are longer than their rules allow."""
    found = []
    for field, value in request.ListFields():
        rules = field.GetOptions().Extensions[validate_pb2.field]
        most = rules.repeated.max_items or rules.map.max_pairs
        if most and len(value) > most:
            found.append(FieldError(field.name, f"it has {len(value)} items, at most {most}"))
    return found


def _path(field: validate_pb2.FieldPath) -> str:
    """Return where a field is in its request, e.g. `scopes[2]`."""
    return ".".join(element.field_name + _subscript(element) for element in field.elements)


def _subscript(element: validate_pb2.FieldPathElement) -> str:
    kind = element.WhichOneof("subscript")
    return f"[{getattr(element, kind)!r}]" if kind else ""
