"""The core for each set of folders: one session with its chats and commands, shared by all conversations about them.

Knows how the core's parts are put together; knows nothing of the Agent Client Protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctx_lsp.acp.headless import Headless
from ctx_lsp.acp.waiting import Waiting
from ctx_lsp.chat.chat import Chats
from ctx_lsp.client.editor import Editor
from ctx_lsp.commands.commands import Commands
from ctx_lsp.commands.slash_lines import Table
from ctx_lsp.protocol import ChatDelta, Status
from ctx_lsp.session import Session
from ctx_lsp.surface.surface import Surface

Folders = tuple[Path, ...]


class Workspace:
    """A session that goes on until it is closed. Its conversations see the same chunks.

    Attributes:
        waiting: the turns whose answers have not begun.
    """

    def __init__(self, folders: Folders, options: dict[str, Any], send: Callable[[ChatDelta], None]) -> None:
        """Raises WireError for options that can't be meant."""
        self.folders = folders
        self.session = Session(Editor(Headless(self._on_status)), options, list(folders), "utf-16")
        self.chats = Chats(self.session, send)
        self._commands = Commands(self.session, self.chats)
        self._surface = Surface(self.session, self.chats)
        self.waiting: set[Waiting] = set()
        self._started = False

    def commands(self) -> Table:
        return self._commands.table() | self._surface.commands.table()

    async def close(self) -> None:
        self._surface.stop()
        await self.session.close()

    def _on_status(self, status: Status) -> None:
        for waiting in list(self.waiting):
            waiting.show(status)

    def start(self) -> None:
        """Brings up the engine and loads files, once; what conversations there are can be seen before."""
        if not self._started:
            self._started = True
            self.session.start()


class Workspaces:
    """Those that were asked for, each opened once."""

    def __init__(self, options: dict[str, Any], send: Callable[[ChatDelta], None]) -> None:
        """`options` are `InitializationOptions` as on the wire."""
        self._options = options
        self._send = send
        self._open: dict[Folders, Workspace] = {}

    def open(self, folders: Folders) -> Workspace:
        """Raises WireError."""
        if folders not in self._open:
            self._open[folders] = Workspace(folders, self._options, self._send)
        return self._open[folders]

    def all(self) -> list[Workspace]:
        return list(self._open.values())

    async def close(self) -> None:
        for workspace in self._open.values():
            await workspace.close()
        self._open.clear()
