"""After any history of a session, the server's texts and hashes are the client's, or the disk's."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctx_lsp.protocol import FileOptions
from ctx_lsp.workspace import admission
from ctx_lsp.workspace.ignore_rules import walk
from tests.lsp.driver import Driver, EngineSetup, edit, ready
from tests.lsp.wire_client import LocalClient

FOLDERS = ("one", "two")
NAMES = ("a.py", "sub/b.py", ".env")
KINDS = ("open", "edit", "close", "save", "write", "delete", "rename", "load", "deactivate", "folder", "flush")
steps = st.tuples(
    st.sampled_from(KINDS), st.sampled_from(FOLDERS), st.sampled_from(NAMES), st.sampled_from(NAMES), st.booleans()
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=25))
def test_after_any_history_texts_and_hashes_are_the_clients_or_the_disks(
    history: list[tuple[str, str, str, str, bool]], engine: EngineSetup, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(play(history, engine, tmp_path_factory.mktemp("history")))


async def play(history: list[tuple[str, str, str, str, bool]], engine: EngineSetup, root: Path) -> None:
    for folder in FOLDERS:
        (root / folder).mkdir()
    client = LocalClient()
    try:
        driver = Driver(root / "one", engine, None)  # type: ignore[arg-type]
        tells = {"workspace": {"didChangeWatchedFiles": {"dynamicRegistration": True}}}
        await ready(await driver.initialize(client, tells, files={"maxTokens": 500}))
        model = Model(root, client)
        for kind, folder, name, other, told_twice in history:
            await model.act(kind, root / folder / name, root / folder / other, told_twice)
        await model.check()
    finally:
        await client.close()


@dataclass
class Model:
    """What a client with one text per file expects of its server, as plainly as it can be said."""

    root: Path
    client: LocalClient
    folders: set[str] = field(default_factory=lambda: {"one"})
    open: dict[Path, str] = field(default_factory=dict)
    mine: set[Path] = field(default_factory=set)
    texts: Iterator[str] = field(default_factory=lambda: (f"text {number}" for number in itertools.count()))

    async def act(self, kind: str, path: Path, other: Path, told_twice: bool) -> None:
        match kind:
            case "open" if path not in self.open:
                self.open[path] = path.read_text() if path.exists() else next(self.texts)
                document = {"uri": path.as_uri(), "languageId": "x", "version": 1, "text": self.open[path]}
                self.client.notify("textDocument/didOpen", {"textDocument": document})
            case "edit" if path in self.open:
                self.open[path] = f"{next(self.texts)}, {self.open[path]}"
                new, _, _ = self.open[path].partition(",")
                place = {"uri": path.as_uri(), "version": 2}
                changes = [edit((0, 0), (0, 0), f"{new}, ")]
                self.client.notify("textDocument/didChange", {"textDocument": place, "contentChanges": changes})
            case "close" if path in self.open:
                del self.open[path]
                self.client.notify("textDocument/didClose", {"textDocument": {"uri": path.as_uri()}})
            case "save" if path in self.open:
                self.write(path, self.open[path], told_twice)
                self.client.notify("textDocument/didSave", {"textDocument": {"uri": path.as_uri()}})
            case "write":
                self.write(path, next(self.texts), told_twice)
            case "delete":
                path.unlink(missing_ok=True)
                self.tell(path, told_twice)
            case "rename" if path.exists() and path != other:
                await self.rename(path, other, told_twice)
            case "load" if path in self.open or path.exists():
                await self.client.command("ctx.load", paths=[str(path)])
                self.mine.add(path)
            case "deactivate" if (source := await self.source(path)) is not None:
                await self.client.command("ctx.deactivate", refs=[source])
                self.mine.add(path)
            case "folder":
                self.switch_folder()
            case "flush":
                await self.client.command("ctx.context")

    def write(self, path: Path, text: str, told_twice: bool) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.tell(path, told_twice)

    def tell(self, path: Path, told_twice: bool) -> None:
        changes = [{"uri": path.as_uri(), "type": 2}] * (1 + told_twice)
        self.client.notify("workspace/didChangeWatchedFiles", {"changes": changes})

    async def rename(self, path: Path, other: Path, told_twice: bool) -> None:
        """As an editor does it: a document is closed and opened anew; what was there is written over."""
        await self.client.command("ctx.context")
        for each in (path, other):
            if each in self.open:
                await self.act("close", each, each, False)
        other.parent.mkdir(exist_ok=True)
        was_mine = path in self.mine
        path.rename(other)
        self.mine -= {path, *([] if other in self.mine else [other])}
        self.mine |= {other} if was_mine else set()
        files = [{"oldUri": path.as_uri(), "newUri": other.as_uri()}]
        self.client.notify("workspace/didRenameFiles", {"files": files})
        if told_twice:
            self.tell(path, False)
            self.tell(other, False)

    def switch_folder(self) -> None:
        folder = {"uri": (self.root / "two").as_uri(), "name": "two"}
        is_there = "two" in self.folders
        self.folders ^= {"two"}
        event = {"added": [] if is_there else [folder], "removed": [folder] if is_there else []}
        self.client.notify("workspace/didChangeWorkspaceFolders", {"event": event})

    async def source(self, path: Path) -> str | None:
        """What the file's chunk is called, where it has one now."""
        chunks = await self.chunks()
        known = self.client.server.session.sources.known(path)
        return known if known in chunks else None

    async def chunks(self) -> dict[str, str]:
        """Hashes by source, all files that load by themselves among them."""
        await self.client.command("ctx.load", discover=True)
        listed = (await self.client.command("ctx.context"))["chunks"]
        return {source: chunk["hash"] for chunk in listed for source in chunk["sources"]}

    async def check(self) -> None:
        session = self.client.server.session
        chunks = await self.chunks()
        for path, text in self.open.items():
            assert session.documents.text(path.as_uri()) == text
        found = {session.sources.path(source): hash for source, hash in chunks.items()}
        assert found == {path: hashlib.sha256(text.encode()).hexdigest() for path, text in self.wanted().items()}

    def wanted(self) -> dict[Path, str]:
        wanted: dict[Path, str] = {}
        for path in (self.root / folder / name for folder in FOLDERS for name in NAMES):
            comes_by_itself = path.name != ".env"
            if path in self.open and (comes_by_itself or path in self.mine):
                wanted[path] = self.open[path]
            elif path not in self.open and path.exists():
                in_folder = any(path.is_relative_to(self.root / folder) for folder in self.folders)
                if path in self.mine or (comes_by_itself and in_folder):
                    wanted[path] = path.read_text()
        return wanted


# -- much at once ------------------------------------------------------------------------------------------------------


async def test_ten_thousand_rapid_edits_leave_nothing_behind(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "x" * 100)
    await engine.wait_texts(lambda texts: len(texts) == 1)

    async def type(count: int) -> None:
        for number in range(count):
            driver.change(client, "a.txt", number, edit((0, number % 100), (0, number % 100 + 1), "xyz"[number % 3]))
        await client.request("ctx/status", {})

    await type(1000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            await type(1000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500_000
    text = client.server.session.documents.text(driver.uri("a.txt"))
    assert text is not None
    await engine.wait_texts(lambda texts: texts == {"a.txt": text})
    assert (await engine.state())["calls"].count("POST chunks") < 100


async def test_initialize_does_not_wait_for_the_walk(
    driver: Driver, engine: EngineSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write("a.py", "found")
    may_go_on = threading.Event()

    def slow_walk(*args: Any) -> Iterator[Path]:
        may_go_on.wait()
        yield from walk(*args)

    monkeypatch.setattr("ctx_lsp.workspace.admission.walk", slow_walk)
    try:
        client = await driver.start_ready(files={"maxTokens": 100})
        driver.open(client, "b.py", "open")
        await engine.wait_texts(lambda texts: set(texts) == {"b.py"})
        assert (await client.request("ctx/status", {}))["state"] == "ready"
    finally:
        may_go_on.set()
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "b.py"})


def test_fifty_thousand_files_take_little_memory(tmp_path: Path) -> None:
    text, workspace = tmp_path / "text", tmp_path / "workspace"
    text.write_text("x")
    for folder in range(250):
        (workspace / f"{folder}").mkdir(parents=True)
        for number in range(200):
            os.link(text, f"{workspace}/{folder}/{number}.py")
    tracemalloc.start()
    try:
        found = admission.Admission([workspace], FileOptions()).candidates()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == admission.MOST_CANDIDATES
    assert peak < 8_000_000
