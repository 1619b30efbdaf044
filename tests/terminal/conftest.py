"""A workspace, a home of its own, and the fake server's command and log."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.terminal.terminals import PtyTerminal

FAKE_SERVER = Path(__file__).with_name("fake_server.py")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "retry.py").write_text("attempts = 5\ndef retry(): pass\n")
    (folder / "store.py").write_text("path = None\n")
    (folder / "image.bin").write_bytes(b"\0\1")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


class FakeServerLog:
    """What the fake server was told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.command = shlex.join([sys.executable, str(FAKE_SERVER), str(path)])

    def received(self, method: str) -> list[Any]:
        """Params of every message with this method, in order."""
        return [message.get("params") for message in self._messages() if message.get("method") == method]

    def cancelled(self, method: str) -> int:
        """How many requests with this method were cancelled."""
        ids = {message["id"] for message in self._messages() if message.get("method") == method}
        return sum(params["id"] in ids for params in self.received("$/cancelRequest"))

    def _messages(self) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def ended_politely(self) -> bool:
        return bool(self.received("shutdown")) and bool(self.received("exit"))


@pytest.fixture
def fake(tmp_path: Path) -> FakeServerLog:
    return FakeServerLog(tmp_path / "fake-server.log")


@pytest.fixture
def open_chat(home: Path, workspace: Path, fake: FakeServerLog) -> Iterator[Callable[..., PtyTerminal]]:
    """Opens chats in pseudo-terminals, with the fake server unless told otherwise."""
    terminals: list[PtyTerminal] = []

    def start(*arguments: str, server: str | None = fake.command, **environment: str) -> PtyTerminal:
        chosen = ["--server", server] if server else []
        terminal = PtyTerminal(["chat", *chosen, *arguments], home, workspace, **environment)
        terminals.append(terminal)
        return terminal

    yield start
    for terminal in terminals:
        terminal.close()
