"""Wire types of `protocol.py` to JSON and back: camelCase names, strict types, errors that name every wrong field.

`to_json` and `from_json` serve editors and terminal clients; `from_engine` reads the same values as the engine's HTTP
API spells them (snake_case). Knows nothing of what the values mean.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

from ctx_lsp import protocol

T = TypeVar("T")


class WireError(ValueError):
    """The JSON does not have the shape of the type; the message names each field that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def is_wire_type(cls: Any) -> bool:
    return getattr(cls, "__module__", None) == protocol.__name__ and attrs.has(cls)


def from_json(value: Any, cls: type[T]) -> T:
    """Reads params or a result. Unknown fields are ignored. Raises WireError."""
    return _Reader(camel_case).read(value, cls)


def from_engine(value: Any, cls: type[T]) -> T:
    """Reads an object of the engine's HTTP API. Unknown fields are ignored. Raises WireError."""
    return _Reader(str).read(value, cls)


def to_json(value: Any) -> Any:
    """The JSON form of a wire type or of a container of them; None is written as null."""
    if is_wire_type(type(value)):
        return {camel_case(name): to_json(getattr(value, name)) for name in _fields(type(value))}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def field_type(cls: type[Any], name: str) -> Any:
    """The resolved type of a field of a wire type."""
    return _fields(cls)[name]


def _fields(cls: type[Any]) -> dict[str, Any]:
    if cls not in _FIELDS:
        hints = get_type_hints(cls)
        _FIELDS[cls] = {f.name: hints[f.name] for f in attrs.fields(cls)}
    return _FIELDS[cls]


class _Reader:
    """Walks a JSON value beside a type and collects every problem before it gives up."""

    def __init__(self, rename: Callable[[str], str]) -> None:
        self._rename = rename
        self._problems: list[str] = []

    def read(self, value: Any, cls: type[T]) -> T:
        result = self._read(value, cls, "")
        if self._problems:
            raise WireError(self._problems)
        return cast(T, result)

    def _read(self, value: Any, expected: Any, path: str) -> Any:
        origin = get_origin(expected)
        if expected is Any:
            return value
        if origin in (Union, types.UnionType):
            return self._read_optional(value, expected, path)
        if origin is Literal:
            return self._read_literal(value, expected, path)
        if origin is tuple:
            return self._read_array(value, get_args(expected)[0], path)
        if is_wire_type(expected):
            return self._read_object(value, expected, path)
        return self._read_primitive(value, expected, path)

    def _read_optional(self, value: Any, expected: Any, path: str) -> Any:
        (inner,) = (arg for arg in get_args(expected) if arg is not type(None))
        return None if value is None else self._read(value, inner, path)

    def _read_literal(self, value: Any, expected: Any, path: str) -> Any:
        choices = get_args(expected)
        if isinstance(value, str) and value in choices:
            return value
        return self._wrong(path, "one of " + ", ".join(f'"{choice}"' for choice in choices), value)

    def _read_array(self, value: Any, item: Any, path: str) -> Any:
        if not isinstance(value, list):
            return self._wrong(path, "an array", value)
        return tuple(self._read(element, item, f"{path}[{index}]") for index, element in enumerate(value))

    def _read_object(self, value: Any, cls: type[Any], path: str) -> Any:
        value = {} if value == [] else value  # Lua writes both the same
        if not isinstance(value, dict):
            return self._wrong(path, "an object", value)
        before = len(self._problems)
        given: dict[str, Any] = {}
        for attribute in attrs.fields(cls):
            key = self._rename(attribute.name)
            inner = f"{path}.{key}" if path else key
            if key in value:
                given[attribute.name] = self._read(value[key], _fields(cls)[attribute.name], inner)
            elif attribute.default is attrs.NOTHING:
                self._problems.append(f"{inner}: is missing")
        return cls(**given) if len(self._problems) == before else None

    def _read_primitive(self, value: Any, expected: Any, path: str) -> Any:
        accepted = (int, float) if expected is float else (expected,)
        if isinstance(value, accepted) and (expected is bool or not isinstance(value, bool)):
            return expected(value)
        return self._wrong(path, _NAMES[expected], value)

    def _wrong(self, path: str, expected: str, value: Any) -> None:
        got = f'"{value}"' if isinstance(value, str) and len(value) < 40 else _NAMES.get(type(value), "null")
        self._problems.append(f"{path or 'params'}: expected {expected}, got {got}")


_FIELDS: dict[type[Any], dict[str, Any]] = {}

_NAMES: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
}
