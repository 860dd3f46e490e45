"""The quick rules against protovalidate, which has the last word."""

import importlib
import pkgutil
from math import inf, nan
from typing import Any

import protovalidate
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

import engineshed.api
from buf.validate import validate_pb2
from engineshed.rpc.quick_rules import QuickRules

VALIDATOR = protovalidate.Validator()
QUICK = QuickRules()
INTEGERS = {
    FieldDescriptorProto.TYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptorProto.TYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptorProto.TYPE_UINT32: ("uint32", 0, 2**32 - 1),
    FieldDescriptorProto.TYPE_UINT64: ("uint64", 0, 2**64 - 1),
}


def requests() -> list[Any]:
    """The descriptors of all requests of our API."""
    found: dict[str, Any] = {}
    for module in pkgutil.walk_packages(engineshed.api.__path__, "engineshed.api."):
        if module.name.endswith("_pb2"):
            found |= importlib.import_module(module.name).DESCRIPTOR.message_types_by_name
    return [found[name] for name in sorted(found) if name.endswith("Request")]


def is_valid(message: Any) -> bool:
    return not VALIDATOR.collect_violations(message)


def integers(field: Any, rules: Any, *, valid: bool) -> st.SearchStrategy[int]:
    kind, low, high = INTEGERS[field.type]
    limits = getattr(rules, kind)
    least = limits.gte if limits.HasField("gte") else low
    most = limits.lte if limits.HasField("lte") else high
    edges = [least, most]
    return st.sampled_from(edges if valid else [*edges, max(low, least - 1), min(high, most + 1)])


def texts(rules: Any, *, valid: bool) -> st.SearchStrategy[str]:
    most = rules.max_len or 100
    good = st.sampled_from(["😀" * max(1, rules.min_len), "ä" * most])
    if rules.pattern:
        good = st.from_regex(rules.pattern.removesuffix("$") + r"\Z")
    if listed := list(getattr(rules, "in")):
        good = st.sampled_from(listed)
    if valid:
        return good
    spoilt = st.sampled_from(["", "x", "ä" * (most + 1), "😀" * (most + 1)])
    return good | spoilt | good.map(lambda text: text + "\n") | good.map(lambda text: "\n" + text)


def decimals(rules: Any, *, valid: bool) -> st.SearchStrategy[float]:
    good = st.sampled_from([rules.gte, rules.gte + 0.5, 1e300])
    return good if valid else good | st.sampled_from([rules.gte - 0.5, inf, -inf, nan])


def durations(rules: Any, *, valid: bool) -> st.SearchStrategy[Duration]:
    least, most = rules.gte.seconds, rules.lte.seconds or 1_000_000
    good = st.builds(Duration, seconds=st.sampled_from([least, least + 1, most]))
    if valid:
        return good
    spoilt = [Duration(seconds=least - 1), Duration(seconds=most, nanos=1), Duration(nanos=-1)]
    return good | st.sampled_from(spoilt)


def scalars(field: Any, rules: Any, *, valid: bool) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        numbers = sorted(field.enum_type.values_by_number)
        return st.sampled_from(numbers[1:] if valid else [*numbers, 99])
    if field.type in INTEGERS:
        return integers(field, rules, valid=valid)
    if field.type == field.TYPE_STRING:
        return texts(rules.string, valid=valid)
    if field.type == field.TYPE_DOUBLE:
        return decimals(rules.double, valid=valid)
    return st.just(field.default_value)


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, *, valid: bool) -> Any:
    """Any message of a type; if `valid`, with values that keep its rules, most of the time."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(st.integers(0, 9)) == 0:
            continue
        rules = field.GetOptions().Extensions[validate_pb2.field]
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            values = {str(i): "" for i in range(2 if valid else rules.map.max_pairs + 1)}
            getattr(message, field.name).update(values)
        elif not field.is_repeated and field.message_type is Duration.DESCRIPTOR:
            getattr(message, field.name).CopyFrom(draw(durations(rules.duration, valid=valid)))
        elif not field.is_repeated and field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(messages(field.message_type, valid=valid)))
        elif not field.is_repeated:
            setattr(message, field.name, draw(scalars(field, rules, valid=valid)))
        elif field.message_type is not None:
            items = st.lists(messages(field.message_type, valid=valid), min_size=1, max_size=2)
            getattr(message, field.name).extend(draw(items))
        else:
            one = scalars(field, rules.repeated.items, valid=valid)
            some = draw(st.lists(one, min_size=1, max_size=3, unique=valid))
            times = 1 if valid else draw(st.sampled_from([1, rules.repeated.max_items + 1]))
            getattr(message, field.name).extend(some * times)
    return message


@pytest.mark.parametrize("descriptor", requests(), ids=lambda descriptor: descriptor.name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_they_agree_with_protovalidate_on_every_request(
    descriptor: Any, data: st.DataObject
) -> None:
    message = data.draw(messages(descriptor, valid=data.draw(st.booleans())))

    assert QUICK.certainly_keeps(message) == is_valid(message)


RULES = {
    "a format": {"string": {"email": True}},
    "an expression": {"cel": [{"id": "x", "expression": "this != 'x'", "message": "x"}]},
    "a gap": {"uint32": {"gte": 9, "lte": 5}},
    "a constant": {"uint32": {"const": 3}},
    "an exception": {"ignore": "IGNORE_IF_ZERO_VALUE", "string": {"min_len": 3}},
    "items of a kind": {"repeated": {"items": {"string": {"email": True}}}},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_they_leave_what_they_do_not_know_to_protovalidate(rules: Any) -> None:
    parsed = json_format.ParseDict(rules, validate_pb2.FieldRules())
    number = "uint32" in rules
    file = FileDescriptorProto(name="some.proto", syntax="proto3")
    field = file.message_type.add(name="Some").field.add(
        name="field",
        number=1,
        type=FieldDescriptorProto.TYPE_UINT32 if number else FieldDescriptorProto.TYPE_STRING,
        label=(
            FieldDescriptorProto.LABEL_REPEATED
            if "repeated" in rules
            else FieldDescriptorProto.LABEL_OPTIONAL
        ),
    )
    field.options.Extensions[validate_pb2.field].CopyFrom(parsed)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    some = message_factory.GetMessageClass(pool.FindMessageTypeByName("Some"))

    assert is_valid(some(field=3 if number else ["a@b.c"] if "repeated" in rules else "a@b.c"))
    assert not QUICK.certainly_keeps(some())
