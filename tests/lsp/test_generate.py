"""The editors' files say what `protocol.py` says, and are what TypeScript and Lua understand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from ctx_lsp import protocol
from ctx_lsp.generate import lua, typescript
from ctx_lsp.generate.files import FILES
from ctx_lsp.generate.shapes import camel_names, key, shape


@pytest.mark.parametrize(("path", "text"), FILES.items(), ids=[path.name for path in FILES])
def test_files_are_what_would_be_generated(path: Path, text: Callable[[], str]) -> None:
    assert path.read_text(encoding="utf-8") == text(), "run `python -m ctx_lsp.generate` and commit what it writes"


def test_every_method_is_in_both_by_name() -> None:
    for text in (typescript.module(), lua.module()):
        quoted = set(re.findall(r'"(ctx[/.][\w/]+)"', text))
        assert quoted == set(protocol.METHODS)


def test_names_are_unambiguous() -> None:
    for kind in ("request", "notification", "command"):
        names = [key(name) for name, method in protocol.METHODS.items() if method.kind == kind]
        assert len(names) == len(set(names))
    assert (key("ctx/status/didChange"), key("ctx.load"), key("ctx/chat")) == ("statusDidChange", "load", "chat")


@pytest.mark.parametrize(
    ("type", "in_typescript", "in_lua"),
    [
        (int, "number", "integer"),
        (tuple[str, ...] | None, "string[] | null", "string[]"),
        (Literal["a", "b"], '"a" | "b"', '"a"|"b"'),
        (tuple[Literal["a", "b"], ...], '("a" | "b")[]', '("a"|"b")[]'),
        (protocol.Fidelity, '"exact" | "auto" | "instant"', "ctx_lsp.Fidelity"),
        (protocol.Usage | None, "Usage | null", "ctx_lsp.Usage"),
    ],
)
def test_types_are_spelled(type: object, in_typescript: str, in_lua: str) -> None:
    assert (typescript.type_name(type), lua.type_name(type)) == (in_typescript, in_lua)


def test_comments_go_along_in_the_wires_words() -> None:
    fields = {field.name: field for field in shape(protocol.InitializationOptions).fields}
    assert fields["debounceMs"].comment == "how long a document must rest before its text goes to the engine"
    assert fields["debounceMs"].default == "300"
    assert fields["latencyBudgetMs"].comment.startswith("what `auto` may spend")
    assert camel_names("``all`` of `turn_id` in `x`, snake_case") == "`all` of `turnId` in `x`, snake_case"
    assert shape(protocol.Position).comment.startswith("As in LSP")
    assert shape(protocol.ChunkList).comment == ""
