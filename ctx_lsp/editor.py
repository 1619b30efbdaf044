"""What the server says to the editor of its own accord: notifications, log lines, progress bars, registrations.

Knows the client's capabilities and asks for nothing that it lacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

from lsprotocol import types
from pygls.capabilities import get_capability
from pygls.lsp.server import LanguageServer

_REPORT_SECONDS = 0.25
_PATIENCE_SECONDS = 0.4


class Editor:
    """The client's side of one session."""

    def __init__(self, server: LanguageServer) -> None:
        self._server = server

    def can(self, capability: str) -> bool:
        """Whether the client has a capability, e.g. ``window.work_done_progress``."""
        return bool(get_capability(self._server.client_capabilities, capability, False))

    def notify(self, method: str, params: Any) -> None:
        self._server.protocol.notify(method, params)

    def log(self, message: str, kind: types.MessageType = types.MessageType.Info) -> None:
        self._server.window_log_message(types.LogMessageParams(kind, message))

    def show(self, message: str, kind: types.MessageType = types.MessageType.Info) -> None:
        """Where the user looks; for what must not be missed."""
        self._server.window_show_message(types.ShowMessageParams(kind, message))

    async def request(self, method: str, params: Any) -> Any:
        return await self._server.protocol.send_request_async(method, params)

    async def watch_files(self) -> None:
        """Asks to be told of changes on disk, where the client can."""
        if not self.can("workspace.did_change_watched_files.dynamic_registration"):
            return
        watcher = types.FileSystemWatcher(glob_pattern="**/*")
        registration = types.Registration(
            id=uuid.uuid4().hex,
            method=types.WORKSPACE_DID_CHANGE_WATCHED_FILES,
            register_options=types.DidChangeWatchedFilesRegistrationOptions(watchers=[watcher]),
        )
        with contextlib.suppress(Exception):  # a client may refuse; files are looked at before each question anyway
            await self.request(types.CLIENT_REGISTER_CAPABILITY, types.RegistrationParams([registration]))


class ProgressBar:
    """A work-done progress that appears when work goes on for a while, and moves at most four times a second.

    `show` and `done` return at once. Nothing is sent to a client without `window.workDoneProgress`.
    """

    def __init__(self, editor: Editor, title: str) -> None:
        self._editor = editor
        self._title = title
        self._latest: tuple[str, float | None] | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def show(self, message: str, fraction: float | None) -> None:
        self._latest = (message, fraction)
        self._changed.set()
        if self._task is None and self._editor.can("window.work_done_progress"):
            self._task = asyncio.create_task(self._run())

    def done(self) -> None:
        self._latest = None
        self._changed.set()

    async def _run(self) -> None:
        try:
            await asyncio.sleep(_PATIENCE_SECONDS)
            if self._latest is not None:
                await self._report()
        finally:
            self._task = None

    async def _report(self) -> None:
        token = uuid.uuid4().hex
        try:
            await self._editor.request(
                types.WINDOW_WORK_DONE_PROGRESS_CREATE, types.WorkDoneProgressCreateParams(token)
            )
        except Exception:
            return  # the client refused; it can do without
        self._send(token, types.WorkDoneProgressBegin(self._title, cancellable=False, **self._state()))
        while self._latest is not None:
            self._changed.clear()
            await asyncio.sleep(_REPORT_SECONDS)
            await self._changed.wait()
            if self._latest is not None:
                self._send(token, types.WorkDoneProgressReport(**self._state()))
        self._send(token, types.WorkDoneProgressEnd())

    def _state(self) -> dict[str, Any]:
        message, fraction = self._latest or ("", None)
        percentage = None if fraction is None else max(0, min(100, int(fraction * 100)))
        return {"message": message, "percentage": percentage}

    def _send(self, token: str, value: Any) -> None:
        self._editor.notify(types.PROGRESS, types.ProgressParams(token, value))
