"""Fixtures: a workspace, a fake engine that servers start by themselves, and servers in real processes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.lsp.driver import Driver, EngineSetup, kill_engines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineSetup]:
    """Where servers find, or start, their engine. Engines that are left over at the end are killed."""
    folder = tmp_path / "runtime"
    monkeypatch.setenv("CTX_LSP_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("CTX_LSP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CTX_LSP_ENGINE_COMMAND", f"{sys.executable} -m tests.lsp.fake_engine")
    monkeypatch.setenv("FAKE_ENGINE_TESTS", str(os.getpid()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("FAKE_ENGINE", raising=False)
    yield EngineSetup(folder, monkeypatch)
    kill_engines(folder)


@pytest.fixture
async def driver(workspace: Path, engine: EngineSetup) -> AsyncIterator[Driver]:
    """Starts servers; see `Driver`."""
    async with contextlib.AsyncExitStack() as stack:
        yield Driver(workspace, engine, stack)
