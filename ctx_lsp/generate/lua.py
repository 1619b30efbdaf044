"""The protocol in Lua: LuaCATS annotations for the language server of Lua, and tables of names."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Union, get_args, get_origin

from ctx_lsp import protocol
from ctx_lsp.generate.shapes import HEADLINE, VERSION_COMMENT, Field, aliases, key, methods, shape, wire_types

_PREFIX = "ctx_lsp"
_PRIMITIVES = {str: "string", bool: "boolean", int: "integer", float: "number", Any: "any"}
_TABLES = {"request": "requests", "notification": "notifications", "command": "commands"}


def module() -> str:
    """The file of the Neovim plugin."""
    parts = [
        f"-- {HEADLINE}",
        "\n".join(f"---@alias {_PREFIX}.{name} {_choices(choices)}" for choices, name in aliases().items()),
        *map(_class, wire_types()),
        f"local M = {{}}\n\n--- {VERSION_COMMENT}\nM.version = {protocol.VERSION}",
        *(_table(kind, name) for kind, name in _TABLES.items()),
        "return M",
    ]
    return "\n\n".join(parts) + "\n"


def type_name(expected: Any) -> str:
    """A type's spelling. Null is left to the field: Neovim reads it as a field that isn't there."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        name = aliases().get(arguments)
        return f"{_PREFIX}.{name}" if name else _choices(arguments)
    if origin is tuple:
        inner = type_name(arguments[0])
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if origin in (Union, types.UnionType):
        return "|".join(type_name(argument) for argument in arguments if argument is not type(None))
    return _PRIMITIVES.get(expected) or f"{_PREFIX}.{expected.__name__}"


def _class(cls: type[Any]) -> str:
    body = shape(cls)
    return "\n".join([*_comment(body.comment), f"---@class {_PREFIX}.{body.name}", *map(_field, body.fields)])


def _field(field: Field) -> str:
    optional = "?" if field.optional or type(None) in get_args(field.type) else ""
    default = "" if field.default is None else f"default: {field.default}"
    words = "; ".join(part for part in (field.comment, default) if part)
    return f"---@field {field.name}{optional} {type_name(field.type)} {words}".rstrip()


def _table(kind: str, name: str) -> str:
    """A command's comment says what it takes; its answer is a `CommandResult`."""
    lines = [f'  {key(method.name)} = "{method.name}", -- {_traffic(method)}' for method in methods(kind)]
    return "\n".join([f"M.{name} = {{", *lines, "}"])


def _traffic(method: protocol.Method) -> str:
    answer = method.data or method.result
    return method.params.__name__ + (f" -> {answer.__name__}" if answer else "")


def _comment(text: str) -> Iterator[str]:
    return (f"--- {line}".rstrip() for line in text.splitlines())


def _choices(choices: Iterable[Any]) -> str:
    return "|".join(f'"{choice}"' for choice in choices)
