"""When tests of answers run, what they share, and the table of answers at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, EngineConfig
from engine.config import DEFAULT_MODEL
from engine.models import catalogue
from engine.models.fetch import is_fetched
from engine.models.resolve import resolve_model
from tests.answers.exam import Exam
from tests.answers.report import table
from tests.answers.transformers_answers import TransformersAnswers

_EXAM = pytest.StashKey[Exam]()
_TABLE_WIDTH = 200


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They take minutes and a large file, so they run only where someone asks for them by their marker."""
    ours = [item for item in items if item.get_closest_marker("answers")]
    reason = _reason_to_skip(config) if ours else None
    for item in ours:
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _reason_to_skip(config: pytest.Config) -> str | None:
    if "answers" not in config.option.markexpr:
        return "tests of answers take minutes: run `make test-answers` or `pytest -m answers`"
    model = catalogue.find(DEFAULT_MODEL)
    assert model is not None
    if not is_fetched(model):
        return f"{DEFAULT_MODEL} is not in the cache: run `make test-answers` or `ctx-lsp models fetch {DEFAULT_MODEL}`"
    return None


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The default model as users get it on a machine without a GPU."""
    with Engine(EngineConfig(device="cpu", dtype="float32", kv_cache_tokens=8192)) as engine:
        yield engine


@pytest.fixture(scope="session")
def wheels(request: pytest.FixtureRequest) -> Path:
    """Keeps what is downloaded from one run to the next."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("wheels")


@pytest.fixture(scope="session")
def exam(engine: Engine, wheels: Path, request: pytest.FixtureRequest) -> Exam:
    reference = TransformersAnswers(resolve_model(DEFAULT_MODEL))
    exam = request.config.stash[_EXAM] = Exam(engine, reference, wheels)
    return exam


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    exam = config.stash.get(_EXAM, None)
    if exam is not None and exam.all_results:
        terminalreporter.section("answers")
        terminalreporter.write(table(exam.all_results, width=_TABLE_WIDTH))
