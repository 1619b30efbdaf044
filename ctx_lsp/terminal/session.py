"""One terminal's conversation with one language server: open it, load files, ask, run slash commands, close it.

Speaks the protocol of `protocol.py` through a `Client`; knows nothing of how anything is shown.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ctx_lsp import __version__, protocol
from ctx_lsp.terminal.client import Client
from ctx_lsp.wire import camel_case, from_json, to_json

T = TypeVar("T")

OnDelta = Callable[[str, protocol.DeltaKind], None]

SERVE_COMMAND = (sys.executable, "-m", "ctx_lsp", "serve")

_CAPABILITIES = {
    "general": {"positionEncodings": ["utf-16"]},
    "window": {"workDoneProgress": True},
    "workspace": {"workspaceFolders": True},
}


@dataclass(frozen=True)
class Settings:
    """What a chat is opened with.

    Attributes:
        workspace: folder that sources are named relative to.
        initialization: `InitializationOptions` fields that were chosen, by their Python names.
        command: how to start the server.
    """

    workspace: Path
    initialization: dict[str, Any] = field(default_factory=dict)
    command: Sequence[str] = SERVE_COMMAND


@dataclass(frozen=True)
class Step:
    """A moment of something that takes long: what is going on, and how much of it is done (0 to 1, or unknown)."""

    message: str
    fraction: float | None


@dataclass(frozen=True)
class Notice:
    """A message the server wants shown; `severity` 1 error, 2 warning, 3 information (LSP's MessageType)."""

    severity: int
    message: str


class Session:
    """An initialized server and what it last said about itself.

    Attributes:
        status: the server's latest status.
        on_step, on_status, on_notice: called as news comes in; replace them freely.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._deltas: dict[str, OnDelta] = {}
        self._titles: dict[str | int, str] = {}
        self.status = protocol.Status(state="starting", message="")
        self.on_step: Callable[[Step], None] = _ignore
        self.on_status: Callable[[protocol.Status], None] = _ignore
        self.on_notice: Callable[[Notice], None] = _ignore
        client.on(protocol.STATUS_DID_CHANGE, self._take_status)
        client.on(protocol.CHAT_DELTA, self._take_delta)
        client.on("$/progress", self._take_progress)
        client.on("window/showMessage", lambda params: self.on_notice(Notice(params["type"], params["message"])))

    @classmethod
    async def open(cls, settings: Settings) -> Session:
        """Start a server for this workspace. Raises ServerGoneError or ServerError."""
        client = await Client.start(settings.command)
        session = cls(client)
        try:
            await client.request("initialize", _initialize_params(settings))
        except BaseException:
            await client.close()
            raise
        client.notify("initialized", {})
        return session

    @property
    def server_pid(self) -> int:
        return self._client.pid

    async def refresh(self) -> protocol.Status:
        """Ask for the status now."""
        self._take_status(await self._client.request(protocol.STATUS, {}))
        return self.status

    async def load(self, paths: Sequence[str], *, discover: bool = False) -> protocol.LoadResult:
        """Load files, folders and globs, and with `discover` what the server finds in the workspace."""
        params = protocol.LoadParams(paths=tuple(paths), discover=discover)
        command = {"command": protocol.LOAD_COMMAND, "arguments": [to_json(params)]}
        result = from_json(await self._client.request("workspace/executeCommand", command), protocol.CommandResult)
        return from_json(result.data, protocol.LoadResult)

    async def wake(self) -> protocol.ChunksResult:
        """Wait for the engine without loading anything."""
        return from_json(await self._client.request(protocol.CHUNKS, {}), protocol.ChunksResult)

    async def ask(
        self,
        text: str,
        on_delta: OnDelta,
        *,
        sampling: protocol.Sampling | None = None,
    ) -> protocol.ChatResult:
        """Ask a question; `on_delta` gets what is generated piece by piece. Cancelling this cancels the answer."""
        turn = uuid.uuid4().hex
        params = protocol.ChatParams(turn_id=turn, text=text, sampling=sampling)
        self._deltas[turn] = on_delta
        try:
            return from_json(await self._client.request(protocol.CHAT, to_json(params)), protocol.ChatResult)
        finally:
            del self._deltas[turn]

    async def slash(self, text: str) -> protocol.CommandResult:
        params = protocol.SlashParams(text=text)
        return from_json(await self._client.request(protocol.SLASH, to_json(params)), protocol.CommandResult)

    async def complete(self, text: str) -> protocol.SlashCompleteResult:
        """What could follow `text`, a line that begins with a slash."""
        params = protocol.SlashCompleteParams(text=text)
        answer = await self._client.request(protocol.SLASH_COMPLETE, to_json(params))
        return from_json(answer, protocol.SlashCompleteResult)

    async def close(self) -> None:
        """End the server process; the engine it used lives on for its idle timeout."""
        await asyncio.shield(self._client.close())

    def _take_status(self, params: Any) -> None:
        self.status = status = from_json(params, protocol.Status)
        self.on_status(status)
        if status.state in ("starting", "loading") and status.message:
            self._step(status.message, status.progress)
        elif status.state == "ready" and status.populate and status.populate.done < status.populate.total:
            done, total = status.populate.done, status.populate.total
            verb = "reading" if status.populate.phase == "populate" else "refining"
            self._step(f"{verb} the context, {done:,} of {total:,} tokens", done / total)

    def _take_delta(self, params: Any) -> None:
        delta = from_json(params, protocol.ChatDelta)
        if on_delta := self._deltas.get(delta.turn_id):
            on_delta(delta.text, delta.kind)

    def _take_progress(self, params: Any) -> None:
        token, value = params["token"], params["value"]
        if value["kind"] == "end":
            self._titles.pop(token, None)
            return
        if value["kind"] == "begin":
            self._titles[token] = value["title"]
        if self.status.state in ("starting", "loading") or self.status.populate:
            return  # the status says the same, and more
        percentage = value.get("percentage")
        parts = (self._titles.get(token), value.get("message"))
        self._step(": ".join(part for part in parts if part), None if percentage is None else percentage / 100)

    def _step(self, message: str, fraction: float | None) -> None:
        self.on_step(Step(message[:1].upper() + message[1:], fraction))


def _ignore(_: object) -> None:
    pass


def _initialize_params(settings: Settings) -> dict[str, Any]:
    options = {camel_case(name): value for name, value in settings.initialization.items() if value is not None}
    uri = settings.workspace.as_uri()
    return {
        "processId": os.getpid(),
        "clientInfo": {"name": "ctx-lsp chat", "version": __version__},
        "rootUri": uri,
        "workspaceFolders": [{"uri": uri, "name": settings.workspace.name or "/"}],
        "capabilities": _CAPABILITIES,
        "initializationOptions": {**options, "documents": "manual"},
    }
