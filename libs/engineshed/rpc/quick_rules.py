"""Whether a message keeps the rules that its proto states, without CEL.

protovalidate evaluates each rule as a CEL expression in pure Python, which takes a millisecond for
every item of a list. Nearly all requests are valid, and our protos use few kinds of rules. So these
are compiled into closures once per type of message. They only ever say that a message is valid:
about any other, and about rules that are not known here, protovalidate decides.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, TypeAlias

import re2
from google.protobuf.message import Message

from buf.validate import validate_pb2

Test: TypeAlias = Callable[[Any], bool]
# Descriptors of protobuf: one of two implementations, with parts that only some of them have.
_Descriptor: TypeAlias = Any
_Field: TypeAlias = Any

_SCALARS: Final = frozenset({"string", "enum", "int32", "int64", "uint32", "uint64", "double"})

_DURATION: Final = "google.protobuf.Duration"
_LONGEST_S: Final = 315_576_000_000  # of a duration
_SECOND: Final = 1_000_000_000  # in nanoseconds


class _UnknownRuleError(Exception):
    """There is a rule that only protovalidate knows."""


class QuickRules:
    """Compiled rules of messages."""

    def __init__(self) -> None:
        self._compiled: dict[_Descriptor, tuple[Test, ...]] = {}

    def certainly_keeps(self, message: Message) -> bool:
        """Tell whether the message is valid for certain; false does not mean that it is invalid."""
        return all(test(message) for test in self._tests(message.DESCRIPTOR))

    def _tests(self, descriptor: _Descriptor) -> tuple[Test, ...]:
        tests = self._compiled.get(descriptor)
        if tests is None:
            try:
                tests = tuple(self._compile(descriptor))
            except _UnknownRuleError:
                tests = (_never,)
            self._compiled[descriptor] = tests
        return tests

    def _compile(self, descriptor: _Descriptor) -> list[Test]:
        if descriptor.GetOptions().HasExtension(validate_pb2.message):
            raise _UnknownRuleError
        tests = [
            _one_of(oneof.name)
            for oneof in descriptor.oneofs
            if oneof.GetOptions().Extensions[validate_pb2.oneof].required
        ]
        for field in descriptor.fields:
            options = field.GetOptions()
            if options.HasExtension(validate_pb2.field):
                tests.append(_field(field, options.Extensions[validate_pb2.field]))
            if field.message_type is not None:
                tests.append(self._inside(field))
        return tests

    def _inside(self, field: _Field) -> Test:
        """Return the test of the messages in a field."""
        name = field.name
        if not field.is_repeated:
            return lambda message: (
                not message.HasField(name) or self.certainly_keeps(getattr(message, name))
            )
        if not field.message_type.GetOptions().map_entry:
            return lambda message: all(map(self.certainly_keeps, getattr(message, name)))
        if field.message_type.fields_by_name["value"].message_type is None:
            return _always
        return lambda message: all(map(self.certainly_keeps, getattr(message, name).values()))


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


def _one_of(name: str) -> Test:
    return lambda message: message.WhichOneof(name) is not None


def _field(field: _Field, rules: validate_pb2.FieldRules) -> Test:
    """Return the test of a field by the rules that stand at it."""
    name = field.name
    value_keeps = _all_of(_value_tests(field, rules))
    if field.has_presence:
        unset = not rules.required
        return lambda message: (
            value_keeps(getattr(message, name)) if message.HasField(name) else unset
        )
    if rules.required:
        return lambda message: bool(getattr(message, name)) and value_keeps(getattr(message, name))
    return lambda message: value_keeps(getattr(message, name))


def _value_tests(field: _Field, rules: validate_pb2.FieldRules) -> list[Test]:
    kind = rules.WhichOneof("type")
    if any(each.name not in {"required", kind} for each, _ in rules.ListFields()):
        raise _UnknownRuleError
    if kind is None:
        return []
    limits = {each.name: value for each, value in getattr(rules, kind).ListFields()}
    items = limits.pop("items", None) if kind == "repeated" else None
    if kind in _SCALARS:
        if field.message_type is not None:  # it is wrapped
            raise _UnknownRuleError
        _refuse_gap(limits)
    elif kind == "duration":
        return [_duration_test(field, limits)]
    elif kind not in {"repeated", "map"}:
        raise _UnknownRuleError
    tests = [_test(field, name, limit) for name, limit in limits.items()]
    if items is not None:
        tests.append(_items_test(field, items))
    return tests


def _duration_test(field: _Field, limits: Mapping[str, Any]) -> Test:
    if field.message_type is None or field.message_type.full_name != _DURATION:
        raise _UnknownRuleError
    if not limits.keys() <= {"gte", "gt", "lte", "lt"}:
        raise _UnknownRuleError
    nanos = {name: _nanoseconds(limit) for name, limit in limits.items()}
    _refuse_gap(nanos)
    within = _all_of([_test(field, name, limit) for name, limit in nanos.items()])
    return lambda value: (
        abs(value.seconds) <= _LONGEST_S
        and abs(value.nanos) < _SECOND
        and within(_nanoseconds(value))
    )


def _nanoseconds(duration: Any) -> int:  # noqa: ANN401 - protobuf's own type
    nanoseconds: int = duration.seconds * _SECOND + duration.nanos
    return nanoseconds


def _items_test(field: _Field, rules: validate_pb2.FieldRules) -> Test:
    if rules.required or rules.WhichOneof("type") not in _SCALARS - {"enum"}:
        raise _UnknownRuleError
    item_keeps = _all_of(_value_tests(field, rules))
    return lambda value: all(map(item_keeps, value))


def _refuse_gap(limits: Mapping[str, Any]) -> None:
    """Refuse a range that is all but what lies between two bounds."""
    low = limits.get("gte", limits.get("gt"))
    high = limits.get("lte", limits.get("lt"))
    if low is not None and high is not None and low >= high:
        raise _UnknownRuleError


def _test(field: _Field, name: str, limit: Any) -> Test:  # noqa: ANN401 - a limit of any type
    match name:
        case "min_len" | "min_items" | "min_pairs":
            return lambda value: len(value) >= limit
        case "max_len" | "max_items" | "max_pairs":
            return lambda value: len(value) <= limit
        case "gte":
            return lambda value: value >= limit
        case "gt":
            return lambda value: value > limit
        case "lte":
            return lambda value: value <= limit
        case "lt":
            return lambda value: value < limit
        case "in":
            return frozenset(limit).__contains__
        case "not_in":
            listed = frozenset(limit)
            return lambda value: value not in listed
        case "pattern":
            # In bytes it is three times as fast: then no offsets are translated back.
            search = re2.compile(limit).search
            return lambda value: search(value.encode()) is not None
        case "finite" if limit:
            return isfinite
        case "defined_only" if limit:
            return frozenset(field.enum_type.values_by_number).__contains__
        case "unique" if limit and field.message_type is None:
            return lambda value: len(set(value)) == len(value)
        case _:
            raise _UnknownRuleError


def _all_of(tests: list[Test]) -> Test:
    match tests:
        case []:
            return _always
        case [one]:
            return one
        case _:
            return lambda value: all(test(value) for test in tests)
