"""Options as clients send them: nested, partly, wrong."""

from __future__ import annotations

from typing import Any

import pytest

from ctx_lsp import wire
from ctx_lsp.protocol import InitializationOptions
from ctx_lsp.settings import options
from ctx_lsp.settings.options import parse_options


@pytest.mark.parametrize("value", [None, {}, {"files": {}}, {"files": None, "debounceMs": None}])
def test_what_is_left_out_takes_its_default(value: Any) -> None:
    assert parse_options(value).options == InitializationOptions()


def test_groups_are_objects() -> None:
    parsed = parse_options({"files": {"maxTokens": 5, "include": ["*.py"]}, "engine": {"url": "http://x"}})
    assert parsed.options.files.max_tokens == 5
    assert parsed.options.files.include == ("*.py",)
    assert parsed.options.files.exclude == ()
    assert parsed.options.engine.url == "http://x"
    assert parsed.warnings == ()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"files": {"maxTokens": "many"}}, 'files.maxTokens: expected an integer, got "many"'),
        ({"files": {"maxTokens": -1}}, "files.maxTokens: expected 0 or more"),
        ({"files": {"include": ["*.py", 3]}}, "files.include[1]: expected a string, got an integer"),
        ({"files": 5}, "files: expected an object, got an integer"),
        ({"files": 5, "files.maxTokens": 5}, "files: expected an object, got an integer"),
        ({"engine": {"url": 1}}, "engine.url: expected a string, got an integer"),
        ({"logLevel": "loud"}, 'logLevel: expected one of "error", "warning", "info", "debug", got "loud"'),
        ({"debounceMs": -1}, "debounceMs: expected 0 or more"),
        ({"threads": 0}, "threads: must be at least 1 or None"),
        (["model"], "expected an object"),
    ],
)
def test_a_wrong_value_is_called_by_its_whole_key(value: Any, problem: str) -> None:
    with pytest.raises(wire.WireError) as caught:
        parse_options(value)
    assert caught.value.problems == (problem,)


def test_unknown_keys_are_named_with_their_groups() -> None:
    (warning,) = parse_options({"modle": "x", "files": {"maxToken": 1}, "engine": {"url": "http://x"}}).warnings
    assert warning == "ignoring unknown options: files.maxToken, modle"


def test_flat_and_nested_are_inverse() -> None:
    value = wire.to_json(InitializationOptions(model="m"))
    flat = options.flatten(value)
    assert options.flatten(options.nest(flat)) == flat
    assert parse_options(flat).options == InitializationOptions(model="m")
