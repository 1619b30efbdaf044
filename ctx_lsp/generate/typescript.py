"""The protocol in TypeScript: whole for the editors, and each interface by itself as docs/protocol.md shows it."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from ctx_lsp import protocol
from ctx_lsp.generate.shapes import HEADLINE, VERSION_COMMENT, Field, aliases, key, methods, shape, wire_types
from ctx_lsp.protocol import Method

_PRIMITIVES = {str: "string", bool: "boolean", int: "number", float: "number", Any: "unknown", type(None): "null"}
_NO_ALIASES: Mapping[tuple[Any, ...], str] = {}


def module() -> str:
    """The file of the VS Code extension."""
    parts = [
        f"// {HEADLINE}",
        f"{_comment(VERSION_COMMENT)}export const VERSION = {protocol.VERSION};",
        "\n".join(f"export type {name} = {_choices(choices)};" for choices, name in aliases().items()),
        *map(_exported, wire_types()),
        *(part for kind in _KINDS for part in (kind.table(), kind.names())),
    ]
    return "\n\n".join(parts) + "\n"


def interface(cls: type[Any]) -> str:
    """`interface Name { … }`, a line per field, `?` where the field may be left out, and no comments but defaults."""
    body = shape(cls)
    if not body.fields:
        return f"interface {body.name} {{}}"
    lines = (f"  {_field(field, _NO_ALIASES)}{_trailing_default(field)}" for field in body.fields)
    return "\n".join([f"interface {body.name} {{", *lines, "}"])


def type_name(expected: Any, names: Mapping[tuple[Any, ...], str] = _NO_ALIASES) -> str:
    """A type's spelling; literals are called by the `names` of their choices."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return names.get(arguments) or _choices(arguments)
    if origin is tuple:
        inner = type_name(arguments[0], names)
        return f"({inner})[]" if " " in inner else f"{inner}[]"
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(argument, names) for argument in arguments)
    return _PRIMITIVES[expected] if expected in _PRIMITIVES else str(expected.__name__)


def _exported(cls: type[Any]) -> str:
    body = shape(cls)
    head = _comment(body.comment)
    if not body.fields:
        return f"{head}export type {body.name} = Record<string, never>;"
    lines = (f"{_comment(_field_comment(field), '  ')}  {_field(field, aliases())}\n" for field in body.fields)
    return f"{head}export interface {body.name} {{\n{''.join(lines)}}}"


def _field(field: Field, names: Mapping[tuple[Any, ...], str]) -> str:
    return f"{field.name}{'?' if field.optional else ''}: {type_name(field.type, names)};"


def _field_comment(field: Field) -> str:
    default = "" if field.default is None else f"default: `{field.default}`"
    return "; ".join(part for part in (field.comment, default) if part)


def _trailing_default(field: Field) -> str:
    return "" if field.default is None else f"  // default: {field.default}"


def _comment(text: str, indent: str = "") -> str:
    if not text:
        return ""
    lines = text.splitlines()
    if len(lines) == 1:
        return f"{indent}/** {text} */\n"
    return "\n".join([f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in lines), f"{indent} */", ""])


def _choices(choices: Iterable[Any]) -> str:
    return " | ".join(f'"{choice}"' for choice in choices)


@dataclass(frozen=True)
class _Kind:
    """The methods of one kind: a table of their types, and their names as constants."""

    kind: str
    name: str
    comment: str
    entry: Callable[[Method], str]

    def table(self) -> str:
        lines = (f'  "{method.name}": {self.entry(method)};' for method in methods(self.kind))
        return "\n".join([f"{_comment(self.comment)}export interface {self.name}s {{", *lines, "}"])

    def names(self) -> str:
        lines = (f'  {key(method.name)}: "{method.name}",' for method in methods(self.kind))
        end = f"}} as const satisfies Record<string, keyof {self.name}s>;"
        return "\n".join([f"export const {self.name} = {{", *lines, end])


def _name(cls: type[Any] | None) -> str:
    return "null" if cls is None else cls.__name__


_KINDS = (
    _Kind(
        "request",
        "Request",
        "Requests to the server, by method.",
        lambda method: f"{{ params: {_name(method.params)}; result: {_name(method.result)} }}",
    ),
    _Kind(
        "notification",
        "Notification",
        "Params of notifications, by method. docs/protocol.md says who sends them.",
        lambda method: _name(method.params),
    ),
    _Kind(
        "command",
        "Command",
        "Commands for `workspace/executeCommand`, by name: each takes one object and answers with a\n"
        "`CommandResult` of this `data`.",
        lambda method: f"{{ params: {_name(method.params)}; data: {_name(method.data)} }}",
    ),
)
