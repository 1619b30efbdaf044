"""docs/protocol.md and ctx_lsp/protocol.py say the same."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import ctx_lsp.commands.slash
from ctx_lsp import protocol, wire
from ctx_lsp.generate.shapes import wire_types
from ctx_lsp.generate.typescript import interface
from ctx_lsp.settings import options
from engine import errors

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "protocol.md").read_text(encoding="utf-8")
ACP = (DOCS / "acp.md").read_text(encoding="utf-8")
WIRE_TYPES = {cls.__name__: cls for cls in wire_types()}
SECTIONS = {
    match[1]: match[2]
    for match in re.finditer(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
}
EXAMPLES = re.findall(r"<!-- (\w+) -->\n```json\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.mark.parametrize("cls", WIRE_TYPES.values(), ids=list(WIRE_TYPES))
def test_every_type_is_shown_as_it_is(cls: type[Any]) -> None:
    shown = re.findall(rf"^interface {cls.__name__} \{{.*?\}}$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    assert shown == [interface(cls)]


def test_no_other_type_is_shown() -> None:
    assert set(re.findall(r"^interface (\w+)", DOCUMENT, flags=re.MULTILINE)) == set(WIRE_TYPES)


def test_every_method_has_a_section_and_no_other() -> None:
    assert list(SECTIONS) == list(dict.fromkeys(SECTIONS))
    assert set(SECTIONS) == set(protocol.METHODS)


@pytest.mark.parametrize("method", protocol.METHODS.values(), ids=list(protocol.METHODS))
def test_every_section_names_the_types(method: protocol.Method) -> None:
    line = f"Kind: {method.kind}. Params: `{method.params.__name__}`."
    if method.data is not None:
        line += f" Data: `{method.data.__name__}`."
    elif method.result is not None:
        line += f" Result: `{method.result.__name__}`."
    assert line in SECTIONS[method.name].splitlines()


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_are_what_they_say(name: str, text: str) -> None:
    value = json.loads(text)
    if name == "ExecuteCommandParams":
        (argument,) = value["arguments"]
        wire.from_json(argument, protocol.METHODS[value["command"]].params)
        return
    assert without_nulls(wire.to_json(wire.from_json(value, WIRE_TYPES[name]))).items() >= without_nulls(value).items()


@pytest.mark.parametrize("method", protocol.METHODS.values(), ids=list(protocol.METHODS))
def test_every_method_is_shown_by_example(method: protocol.Method) -> None:
    shown = {name for name, _ in EXAMPLES}
    types = {cls.__name__ for cls in (method.params, method.result, method.data) if cls and attrs.fields(cls)}
    assert types <= shown, "an example is `<!-- Name -->` and a block of JSON behind it"


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def test_what_is_advertised() -> None:
    first = re.search(r"```json\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert first is not None
    assert json.loads(first[1]) == protocol.EXPERIMENTAL


def test_every_option_is_explained() -> None:
    session = DOCUMENT.split("## Chat")[0]
    explained = set(re.findall(r"^\| `([\w.]+)` \|", session, flags=re.MULTILINE))
    assert explained == options.KEYS


def test_every_slash_command_is_explained_with_its_own_words() -> None:
    for command in ctx_lsp.commands.slash.COMMANDS.values():
        usage = command.usage.replace("|", "\\|")
        assert f"| `{usage}` | {command.summary} |" in DOCUMENT


def subclasses(cls: type[Any]) -> set[type[Any]]:
    return {cls}.union(*(subclasses(inner) for inner in cls.__subclasses__()))


def test_every_error_code_is_explained() -> None:
    for module in pkgutil.walk_packages(ctx_lsp.__path__, "ctx_lsp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes = subclasses(errors.EngineError)
    ours = [cls for cls in classes if cls.__module__ == errors.__name__ or cls.__module__.startswith("ctx_lsp.")]
    codes = {cls.code for cls in ours} | {"engine_incompatible"}
    documented = set(re.findall(r"`(\w+)`", DOCUMENT.split("## Errors")[1].split("## Environment")[0]))
    documented |= set(re.findall(r"`(\w+)`", ACP.split("Errors of the engine")[1]))
    assert codes <= documented
    for code in (protocol.INVALID_PARAMS, protocol.REQUEST_FAILED, protocol.REQUEST_CANCELLED):
        assert f"| −{-code} |" in DOCUMENT


def test_every_variable_is_explained() -> None:
    sources = (Path(__file__).parents[2] / "ctx_lsp").rglob("*.py")
    used = {name for path in sources for name in re.findall(r'"(CTX_LSP_[A-Z_]+)"', path.read_text(encoding="utf-8"))}
    assert used <= set(re.findall(r"^\| `(CTX_LSP_\w+)`", DOCUMENT, flags=re.MULTILINE))
