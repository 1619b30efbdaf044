"""docs/http-api.md can't drift: every route, error code, option, event and field of the code is named there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from fastapi.routing import APIRoute

from engine import errors
from engine.errors import EngineError
from engine.serve import chat_routes, context_routes, event_routes, process_routes, schemas
from engine.serve import errors as serve_errors
from engine.serve.event_routes import _name
from engine.serve.loading import Health
from engine.serve.main import _parser
from engine.types import ChunkInfo, EngineEvent, Plan, PopulateProgress, Usage

DOCUMENT = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
MODULES = (process_routes, chat_routes, context_routes, event_routes)


def routes() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for route in module.router.routes:
            assert isinstance(route, APIRoute)
            for method in route.methods or ():
                yield method, route.path.replace(":path}", "}")


def codes() -> set[str]:
    classes = [value for module in (errors, serve_errors) for value in vars(module).values() if isinstance(value, type)]
    return {kind.code for kind in classes if issubclass(kind, EngineError)}


@pytest.mark.parametrize(("method", "path"), sorted(set(routes())))
def test_every_route_is_documented(method: str, path: str) -> None:
    assert f"`{method} {path}" in DOCUMENT


def test_every_documented_route_exists() -> None:
    documented = set(re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?]+)", DOCUMENT))
    assert documented == set(routes())


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (\d{3}) \|", DOCUMENT, re.MULTILINE)
    documented = {code: int(status) for cell, status in rows for code in re.findall(r"`(\w+)`", cell)}
    assert set(documented) == codes()
    classes = [value for module in (errors, serve_errors) for value in vars(module).values() if isinstance(value, type)]
    assert documented == {kind.code: kind.status for kind in classes if issubclass(kind, EngineError)}


def test_every_option_is_documented() -> None:
    options = {option for action in _parser()._actions for option in action.option_strings if option.startswith("--")}
    documented = set(re.findall(r"^\| `(--[a-z-]+)` \|", DOCUMENT, re.MULTILINE))
    assert documented == options - {"--help"}


def test_every_field_of_a_chat_request_is_documented() -> None:
    for name in schemas.ChatRequest.model_fields:
        assert f"`{name}" in DOCUMENT


@pytest.mark.parametrize("kind", [ChunkInfo, Plan, PopulateProgress, Usage, Health])
def test_every_field_of_a_result_is_documented(kind: Any) -> None:
    for field in fields(kind):
        assert f'"{field.name}"' in DOCUMENT


def test_every_event_is_documented() -> None:
    named = {_name(cast(Any, kind.__new__(kind))) for kind in get_args(EngineEvent)}
    assert named == set(re.findall(r"^event: (\w+)$", DOCUMENT, re.MULTILINE))
