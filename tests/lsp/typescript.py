"""Wire types as TypeScript, as docs/protocol.md shows them. Knows types, nothing of documents."""

from __future__ import annotations

import json
import types
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from ctx_lsp import wire

_PRIMITIVES = {str: "string", bool: "boolean", int: "number", float: "number", Any: "any", type(None): "null"}


def interface(cls: type[Any]) -> str:
    """`interface Name { … }`, a line per field, `?` where the field may be left out."""
    if not attrs.fields(cls):
        return f"interface {cls.__name__} {{}}"
    lines = [f"interface {cls.__name__} {{"]
    for field in attrs.fields(cls):
        optional = "" if field.default is attrs.NOTHING else "?"
        name = wire.camel_case(field.name)
        lines.append(f"  {name}{optional}: {type_name(wire.field_type(cls, field.name))};{_default(field)}")
    return "\n".join([*lines, "}"])


def type_name(expected: Any) -> str:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return " | ".join(f'"{choice}"' for choice in arguments)
    if origin is tuple:
        inner = type_name(arguments[0])
        return f"({inner})[]" if " " in inner else f"{inner}[]"
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    return _PRIMITIVES[expected] if expected in _PRIMITIVES else str(expected.__name__)


def _default(field: attrs.Attribute[Any]) -> str:
    if field.default in (attrs.NOTHING, None, ()) or wire.is_wire_type(type(field.default)):
        return ""
    return f"  // default: {json.dumps(field.default)}"
