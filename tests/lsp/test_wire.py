"""Wire types to JSON and back: nothing is coerced, nothing is lost, every problem is named."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctx_lsp import protocol, wire
from engine import types as engine_types

WIRE_TYPES = [value for value in vars(protocol).values() if wire.is_wire_type(value) and value is not protocol.Method]


@pytest.mark.parametrize("cls", WIRE_TYPES)
@settings(max_examples=20)
@given(data=st.data())
def test_json_and_back_is_the_same(cls: type[Any], data: st.DataObject) -> None:
    value = data.draw(values_of(cls))
    text = json.dumps(wire.to_json(value))
    assert wire.from_json(json.loads(text), cls) == value


@pytest.mark.parametrize("cls", WIRE_TYPES)
@pytest.mark.parametrize("junk", [5, "text", [1], True, None])
def test_what_is_no_object_is_refused(cls: type[Any], junk: Any) -> None:
    with pytest.raises(wire.WireError, match="params: expected an object"):
        wire.from_json(junk, cls)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "turnId: is missing"),
        (
            {"turnId": 1, "text": 5},
            "turnId: expected a string, got an integer; text: expected a string, got an integer",
        ),
        (
            {"turnId": "t", "text": "", "sampling": {"stop": ["a", 5], "seed": True, "temperature": "hot"}},
            'sampling.temperature: expected a number, got "hot"; sampling.stop[1]: expected a string, got an integer; '
            "sampling.seed: expected an integer, got true or false",
        ),
        ({"turnId": "t", "text": "", "sampling": 1.5}, "sampling: expected an object, got a number"),
    ],
)
def test_every_problem_is_named_with_its_place(value: Any, problem: str) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.from_json(value, protocol.ChatParams)
    assert str(caught.value) == problem


def test_unknown_fields_are_ignored() -> None:
    params = wire.from_json({"text": "x", "future": {"a": 1}}, protocol.PlanParams)
    assert params == protocol.PlanParams(text="x")


def test_an_integer_is_a_number() -> None:
    assert wire.from_json({"temperature": 1}, protocol.Sampling).temperature == 1.0


@pytest.mark.parametrize("name", ["ChunkInfo", "ChunkPlan", "Plan", "Usage", "Timing"])
def test_the_engines_values_have_the_same_fields(name: str) -> None:
    """The engine's HTTP API spells its own types; what the editor gets is those, translated."""
    ours = {field.name for field in attrs.fields(getattr(protocol, name))} - {"estimated", "origin"}  # not the engine's
    theirs = set(getattr(engine_types, name).__dataclass_fields__)
    assert ours == theirs


def test_the_engines_words_are_the_same() -> None:
    assert set(get_args(protocol.FidelityLabel)) == {label.value for label in engine_types.FidelityLabel}
    assert set(get_args(protocol.ChunkKind)) == {kind.value for kind in engine_types.ChunkKind}
    assert protocol.StopReason == engine_types.StopReason


def values_of(expected: Any) -> st.SearchStrategy[Any]:
    """Any value of a wire type; `Any` fields get JSON values."""
    if wire.is_wire_type(expected):
        names = [field.name for field in attrs.fields(expected)]
        return st.builds(expected, **{name: values_of(wire.field_type(expected, name)) for name in names})
    if expected is Any:
        return st.none() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
    arguments: tuple[Any, ...] = get_args(expected)
    if get_origin(expected) is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if type(None) in arguments:
        return st.none() | values_of(arguments[0])
    if arguments:
        return st.sampled_from(arguments)
    if expected is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.from_type(expected)


def test_an_empty_array_is_an_empty_object() -> None:
    assert wire.from_json([], protocol.NoParams) == protocol.NoParams()
    assert wire.from_json({"turnId": "t", "sampling": []}, protocol.ChatParams).sampling == protocol.Sampling()
