"""What tests do again and again: start a server and its engine, open and edit documents, look into the fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from engine.serve import runtime_file
from engine.serve.runtime_file import RuntimeInfo
from tests.lsp.fake_engine import CLOSED
from tests.lsp.wire_client import PATIENCE, LocalClient, ProcessClient, WireClient

Client = TypeVar("Client", bound=WireClient)

CAPABILITIES: dict[str, Any] = {"window": {"workDoneProgress": True}}


@dataclass(frozen=True)
class EngineSetup:
    """The runtime folder and environment under which engines are found and started."""

    folder: Path
    environment: pytest.MonkeyPatch

    def behave(self, **behavior: Any) -> None:
        """For engines started from now on."""
        self.environment.setenv("FAKE_ENGINE", json.dumps(behavior))

    def infos(self) -> dict[str, RuntimeInfo]:
        """Of the engines that run, by model."""
        infos = map(runtime_file.read, self.folder.glob("engine-*.json"))
        return {info.model: info for info in infos if info is not None}

    def info(self) -> RuntimeInfo:
        """Of the engine that runs."""
        (info,) = self.infos().values()
        return info

    def kill(self) -> None:
        os.kill(self.info().pid, signal.SIGKILL)

    async def state(self, model: str | None = None, **behavior: Any) -> dict[str, Any]:
        """What the fake (of this model, where several run) saw; `behavior` changes what it does from now on."""
        return await self._tell("behavior", behavior, model)

    async def publish(self, context: str, name: str, data: Any) -> None:
        """Makes the fake send an event."""
        await self._tell("publish", {"context": context, "name": name, "data": data})

    async def _tell(self, what: str, body: dict[str, Any], model: str | None = None) -> dict[str, Any]:
        info = self.info() if model is None else self.infos()[model]
        headers = {"Authorization": f"Bearer {info.token}"}
        async with httpx.AsyncClient(base_url=info.url, headers=headers, trust_env=False) as client:
            response = await client.post(f"/fake/{what}", json=body)
            state: dict[str, Any] = response.json()
            return state

    async def texts(self) -> dict[str, str]:
        """Texts by source, of the only context."""
        (chunks,) = (await self.state())["contexts"].values()
        return {source: chunk["text"] for chunk in chunks for source in chunk["sources"]}

    async def wait_texts(self, accepts: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        texts: dict[str, str] = await eventually(self.texts, accepts)
        return texts


def kill_engines(folder: Path) -> None:
    """Ends every engine that has a runtime file in the folder, and those that are about to write one."""
    folder.mkdir(exist_ok=True)
    (folder / CLOSED).touch()
    for path in folder.glob("engine-*.json"):
        info = runtime_file.read(path)
        if info is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(info.pid, signal.SIGKILL)


class Driver:
    """Starts initialized servers on one workspace. All are closed when the test ends."""

    def __init__(self, workspace: Path, engine: EngineSetup, stack: AsyncExitStack) -> None:
        self.workspace = workspace
        self.engine = engine
        self._stack = stack

    async def start_process(self) -> ProcessClient:
        """A server in a process, that was told nothing yet."""
        client = await ProcessClient.start()
        self._stack.push_async_callback(client.close)
        return client

    def start_local(self) -> LocalClient:
        """A server in this process, that was told nothing yet."""
        client = LocalClient()
        self._stack.push_async_callback(client.close)
        return client

    async def initialize(self, client: Client, capabilities: Any = None, **options: Any) -> Client:
        """Tells a server what it has to know; doesn't wait for its engine."""
        params = self.initialize_params(capabilities or CAPABILITIES, **options)
        client.capabilities = (await client.request("initialize", params))["capabilities"]
        client.notify("initialized", {})
        return client

    async def start(self, **options: Any) -> LocalClient:
        """An initialized server in this process."""
        return await self.initialize(self.start_local(), **options)

    async def start_ready(self, **options: Any) -> LocalClient:
        """The same, with its engine ready and its context there."""
        return await ready(await self.start(**options))

    def initialize_params(self, capabilities: dict[str, Any], **options: Any) -> dict[str, Any]:
        folder = {"uri": self.workspace.as_uri(), "name": self.workspace.name}
        return {
            "processId": os.getpid(),
            "rootUri": folder["uri"],
            "workspaceFolders": [folder],
            "capabilities": capabilities,
            "initializationOptions": {"debounceMs": 50, "files": {"maxTokens": 0}, **options},
        }

    def uri(self, name: str) -> str:
        return Path(os.path.normpath(self.workspace / name)).as_uri()

    def write(self, name: str, text: str) -> Path:
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def open(self, client: WireClient, name: str, text: str) -> None:
        self.write(name, text)
        document = {"uri": self.uri(name), "languageId": "plaintext", "version": 1, "text": text}
        client.notify("textDocument/didOpen", {"textDocument": document})

    def change(self, client: WireClient, name: str, version: int, *changes: dict[str, Any]) -> None:
        document = {"uri": self.uri(name), "version": version}
        client.notify("textDocument/didChange", {"textDocument": document, "contentChanges": list(changes)})

    def close(self, client: WireClient, name: str) -> None:
        client.notify("textDocument/didClose", {"textDocument": {"uri": self.uri(name)}})


async def ready(client: Client) -> Client:
    """Waits until the server's engine is ready."""
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "ready")
    return client


async def eventually(look: Callable[[], Any], accepts: Callable[[Any], bool]) -> Any:
    """Looks until what is seen is accepted."""
    seen: Any = None
    try:
        async with asyncio.timeout(PATIENCE):
            while not accepts(seen := await look()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still {seen!r}") from None
    return seen


def chat(text: str | None = "What is this?", turn: str = "t1", **fields: Any) -> dict[str, Any]:
    return {"turnId": turn, "text": text, **fields}


def edit(start: tuple[int, int], end: tuple[int, int], text: str) -> dict[str, Any]:
    """An incremental change."""
    positions = ({"line": line, "character": character} for line, character in (start, end))
    return {"range": dict(zip(("start", "end"), positions, strict=True)), "text": text}
