"""Fixtures: a fake engine, served once per file and as new for each test. Tests that end or bend it serve their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.fake_engine import FakeEngine
from tests.serve.serving import Served, serving


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with serving(FakeEngine()) as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    shared.engine.reset()
    return shared


@pytest.fixture
def engine(served: Served) -> FakeEngine:
    return served.engine
