"""Fixtures: a fake engine, served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.fake_engine import FakeEngine
from tests.serve.serving import Served, serving


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def served(engine: FakeEngine) -> Iterator[Served]:
    with serving(engine) as served:
        yield served
