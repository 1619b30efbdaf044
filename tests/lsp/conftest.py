"""Fixtures: a workspace, a fake engine that servers start by themselves, and servers in real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.serve import runtime_file
from tests.lsp.driver import Driver, EngineSetup

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
    monkeypatch.setenv("CTX_LSP_ENGINE_COMMAND", f"{sys.executable} -m tests.lsp.fake_engine")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("FAKE_ENGINE", raising=False)
    yield EngineSetup(folder, monkeypatch)
    for path in folder.glob("engine-*.json"):
        info = runtime_file.read(path)
        if info is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(info.pid, signal.SIGKILL)


@pytest.fixture
async def driver(workspace: Path, engine: EngineSetup) -> AsyncIterator[Driver]:
    """Starts servers; see `Driver`."""
    async with contextlib.AsyncExitStack() as stack:
        yield Driver(workspace, engine, stack)
