"""An editor at work on a language server process of its own: files open, answers streaming, texts changing.

Speaks LSP and knows what an editor would do; measures nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any

from benchmarks.corpus import SourceFile
from ctx_lsp.terminal.client import Client, ServerError

_ANSWER_TOKENS = 400
_LOOK_SECONDS = 0.2
_CAPABILITIES = {
    "general": {"positionEncodings": ["utf-16"]},
    "textDocument": {"hover": {"contentFormat": ["markdown"]}, "codeLens": {}},
}
_QUESTIONS = ("What does this code do?", "Which function would you test first, and how?", "What is missing here?")


@dataclass
class BusyEditor:
    """One client with its files open.

    Attributes:
        capabilities: the server's.
        deltas: pieces of answers that have come so far.
    """

    client: Client
    folder: Path
    files: Sequence[SourceFile]
    capabilities: dict[str, Any] = field(default_factory=dict)
    deltas: int = 0

    def uri(self, file: SourceFile) -> str:
        return (self.folder / file.name).as_uri()

    async def open(self, options: dict[str, Any]) -> None:
        """Initializes the server, opens all files, and waits until their KV is there. Raises ServerError."""
        self.client.on("ctx/chat/delta", self._count)
        workspace = {"uri": self.folder.as_uri(), "name": self.folder.name}
        params = {
            "processId": os.getpid(),
            "rootUri": workspace["uri"],
            "workspaceFolders": [workspace],
            "capabilities": _CAPABILITIES,
            "initializationOptions": options,
        }
        self.capabilities = (await self.client.request("initialize", params))["capabilities"]
        self.client.notify("initialized", {})
        for file in self.files:
            document = {"uri": self.uri(file), "languageId": "python", "version": 1, "text": file.text}
            self.client.notify("textDocument/didOpen", {"textDocument": document})
        while not await self._is_warm():
            await asyncio.sleep(_LOOK_SECONDS)

    async def _is_warm(self) -> bool:
        """Whether all that is active has its KV."""
        chunks = (await self.client.request("ctx/chunks", {}))["chunks"]
        return len(chunks) > 0 and all(chunk["warmTokens"] == chunk["tokens"] for chunk in chunks if chunk["active"])

    @asynccontextmanager
    async def at_work(self, edit_seconds: float) -> AsyncIterator[None]:
        """Within the block an answer is streaming at all times, and a file is edited every so many seconds."""
        tasks = [asyncio.create_task(self._chat()), asyncio.create_task(self._edit(edit_seconds))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _count(self, _: Any) -> None:
        self.deltas += 1

    async def _chat(self) -> None:
        for turn, question in zip(count(), cycle(_QUESTIONS), strict=False):
            sampling = {"temperature": 0.8, "seed": turn, "maxTokens": _ANSWER_TOKENS}
            params = {
                "turnId": f"load-{turn}",
                "conversationId": f"load-{turn}",
                "text": question,
                "sampling": sampling,
            }
            with suppress(ServerError):
                await self.client.request("ctx/chat", params)

    async def _edit(self, seconds: float) -> None:
        for version, file in zip(count(2), cycle(self.files), strict=False):
            await asyncio.sleep(seconds)
            place = {"line": len(file.text.splitlines()) // 2, "character": 0}
            change = {"range": {"start": place, "end": place}, "text": f"# edit {version}\n"}
            document = {"uri": self.uri(file), "version": version}
            self.client.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [change]})


@asynccontextmanager
async def busy_editor(folder: Path, files: Sequence[SourceFile], options: dict[str, Any]) -> AsyncIterator[BusyEditor]:
    """An editor on a server and an engine of its own, which live in `folder` as the files do. Raises ServerError."""
    workspace = folder / "workspace"
    workspace.mkdir()
    for file in files:
        (workspace / file.name).write_text(file.text, encoding="utf-8")
    places = {"CTX_LSP_RUNTIME_DIR": str(folder / "runtime"), "CTX_LSP_STATE_DIR": str(folder / "state")}
    client = await Client.start([sys.executable, "-m", "ctx_lsp", "serve"], env={**os.environ, **places})
    try:
        editor = BusyEditor(client, workspace, files)
        await editor.open(options)
        yield editor
    finally:
        await client.close()
