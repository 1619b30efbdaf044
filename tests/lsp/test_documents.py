"""Which texts reach the context: after any history, exactly those of open documents and loaded files."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lsprotocol import types

from ctx_lsp.protocol import DocumentMode, FileOptions
from ctx_lsp.workspace.admission import Admission
from ctx_lsp.workspace.documents import Documents
from ctx_lsp.workspace.ledger import Ledger
from ctx_lsp.workspace.sources import SourceNames
from tests.lsp.driver import Driver, EngineSetup, chat, edit, eventually


@dataclass
class MemoryShelf:
    """Keeps what it is given. `fails` makes the next call fail."""

    texts: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    fails: bool = False

    async def put(self, source: str, text: str) -> None:
        self._maybe_fail()
        self.log.append(source)
        self.texts[source] = text

    async def remove(self, source: str) -> None:
        self._maybe_fail()
        self.texts.pop(source, None)

    async def settle(self) -> None:
        self._maybe_fail()

    def _maybe_fail(self) -> None:
        if self.fails:
            self.fails = False
            raise ConnectionError


def documents(root: Path, mode: DocumentMode = "open") -> Documents:
    return make_documents([root], mode)


def make_documents(folders: list[Path], mode: DocumentMode = "open") -> Documents:
    ledger, admission = Ledger(lambda item: None), Admission(folders, FileOptions())
    return Documents(SourceNames(folders), ledger, admission, mode, debounce=3600, encoding="utf-16")


def item(path: Path, text: str) -> types.TextDocumentItem:
    return types.TextDocumentItem(path.as_uri(), "plaintext", 1, text)


def whole(path: Path, text: str) -> types.DidChangeTextDocumentParams:
    place = types.VersionedTextDocumentIdentifier(uri=path.as_uri(), version=2)
    return types.DidChangeTextDocumentParams(place, [types.TextDocumentContentChangeWholeDocument(text)])


async def test_closing_gives_the_truth_back_to_the_disk(tmp_path: Path) -> None:
    loaded, passing = tmp_path / "loaded.txt", tmp_path / "passing.txt"
    for path in (loaded, passing):
        path.write_text("on disk")
    docs, shelf = documents(tmp_path), MemoryShelf()
    docs.load(loaded)
    for path in (loaded, passing):
        docs.open(item(path, "on disk"))
        docs.change(whole(path, "in the editor"))
    await docs.flush(shelf)
    assert shelf.texts == {"loaded.txt": "in the editor", "passing.txt": "in the editor"}
    for path in (loaded, passing):
        docs.close(path.as_uri())
    await docs.flush(shelf)
    assert shelf.texts == {"loaded.txt": "on disk"}


async def test_loaded_files_follow_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    docs, shelf = documents(tmp_path), MemoryShelf()
    docs.load(path)
    await docs.flush(shelf)
    path.write_text("other")
    await docs.flush(shelf)
    assert shelf.texts == {"a.txt": "other"}
    path.unlink()
    await docs.flush(shelf)
    assert shelf.texts == {}
    path.write_text("back again")
    await docs.flush(shelf)
    assert shelf.texts == {"a.txt": "back again"}
    path.write_bytes(b"\x00binary")
    await docs.flush(shelf)
    assert shelf.texts == {}


async def test_what_was_dismissed_stays_away_until_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    docs, shelf = documents(tmp_path), MemoryShelf()
    docs.open(item(path, "text"))
    await docs.flush(shelf)
    docs.dismiss(["a.txt"])
    shelf.texts.clear()  # what the user's command did
    docs.change(whole(path, "edited"))
    docs.forget_shelf()
    await docs.flush(shelf)
    assert shelf.texts == {}
    docs.close(path.as_uri())
    docs.open(item(path, "opened again"))
    await docs.flush(shelf)
    assert shelf.texts == {"a.txt": "opened again"}


async def test_manual_mode_takes_only_what_is_loaded(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    docs, shelf = documents(tmp_path, "manual"), MemoryShelf()
    for path in (one, two):
        docs.open(item(path, "in the editor"))
    docs.load(one)
    await docs.flush(shelf)
    assert shelf.texts == {"one.txt": "in the editor"}


async def test_empty_and_generated_documents_are_no_chunks(tmp_path: Path) -> None:
    docs, shelf = documents(tmp_path), MemoryShelf()
    for uri, text in (("git:/a.txt?ref", "x"), ("output:tasks", "x"), ("untitled:Untitled-1", "draft")):
        docs.open(types.TextDocumentItem(uri, "plaintext", 1, text))
    path = tmp_path / "empty.txt"
    docs.open(item(path, ""))
    await docs.flush(shelf)
    assert shelf.texts == {"untitled:Untitled-1": "draft"}
    docs.change(whole(path, "no more"))
    await docs.flush(shelf)
    assert shelf.texts["empty.txt"] == "no more"
    docs.change(whole(path, ""))
    await docs.flush(shelf)
    assert "empty.txt" not in shelf.texts


async def test_a_failure_loses_nothing(tmp_path: Path) -> None:
    docs, shelf = documents(tmp_path), MemoryShelf(fails=True)
    for name in ("a", "b", "c"):
        docs.open(item(tmp_path / name, name))
    with pytest.raises(ConnectionError):
        await docs.flush(shelf)
    await docs.flush(shelf)
    assert shelf.log == ["a", "b", "c"], "the order is kept too"


async def test_a_cancelled_flush_loses_nothing(tmp_path: Path) -> None:
    class Stuck(MemoryShelf):
        async def put(self, source: str, text: str) -> None:
            await asyncio.Event().wait()

    docs, shelf = documents(tmp_path), MemoryShelf()
    docs.open(item(tmp_path / "a", "text"))
    task = asyncio.create_task(docs.flush(Stuck()))
    while not docs._lock.locked():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await docs.flush(shelf)
    assert shelf.texts == {"a": "text"}


async def test_only_rested_documents_are_brought_between_questions(tmp_path: Path) -> None:
    docs, shelf = documents(tmp_path), MemoryShelf()
    for name in ("rested", "typed"):
        docs.open(item(tmp_path / name, name))
    docs.change(whole(tmp_path / "typed", "typing goes on"))
    await docs.rested.wait()
    await docs.flush(shelf, only_rested=True)
    assert shelf.texts == {"rested": "rested"}
    docs.save((tmp_path / "typed").as_uri())
    docs.rested.clear()
    await docs.rested.wait()
    await docs.flush(shelf, only_rested=True)
    assert shelf.texts["typed"] == "typing goes on"
    docs.cancel_timers()


async def test_the_same_name_in_two_folders_is_two_sources(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    docs, shelf = make_documents([one, two]), MemoryShelf()
    docs.open(item(one / "main.py", "1"))
    docs.open(item(two / "main.py", "2"))
    docs.open(item(tmp_path / "else.py", "3"))
    await docs.flush(shelf)
    names = {"main.py": "1", (two / "main.py").as_posix(): "2", (tmp_path / "else.py").as_posix(): "3"}
    assert shelf.texts == names


async def test_folders_come_and_go(driver: Driver, engine: EngineSetup, tmp_path: Path) -> None:
    client = await driver.start_ready()
    folder = {"uri": (tmp_path / "second").as_uri(), "name": "second"}
    driver.open(client, "../second/early.txt", "opened before its folder was added")
    event = {"added": [folder], "removed": []}
    client.notify("workspace/didChangeWorkspaceFolders", {"event": event})
    driver.open(client, "../second/late.txt", "opened behind it")
    texts = await engine.wait_texts(lambda texts: len(texts) == 2)
    assert set(texts) == {(tmp_path / "second" / "early.txt").as_posix(), "late.txt"}


NAMES = ("a", "b", "c")
actions = st.one_of(
    *(
        st.tuples(st.just(kind), st.sampled_from(NAMES), st.sampled_from(["", "x", "yy"]))
        for kind in ("open", "change", "close", "write", "unlink", "load", "dismiss", "lose", "flush")
    )
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(actions, max_size=25), mode=st.sampled_from(["open", "manual"]))
def test_after_any_history_the_shelf_holds_exactly_what_is_wanted(
    sequence: list[tuple[str, str, str]], mode: DocumentMode, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(History(tmp_path_factory.mktemp("docs"), mode).play(sequence))


class History:
    """Plays actions on `Documents` and on a model so plain that it can be read at a glance."""

    def __init__(self, root: Path, mode: DocumentMode) -> None:
        self.root = root
        self.mode = mode
        self.docs = documents(root, mode)
        self.shelf = MemoryShelf()
        self.open: dict[str, str] = {}
        self.loaded: set[str] = set()
        self.dismissed: set[str] = set()

    async def play(self, sequence: list[tuple[str, str, str]]) -> None:
        for kind, name, text in sequence:
            await self.act(kind, name, text)
        await self.docs.flush(self.shelf)
        assert self.shelf.texts == self.wanted()
        self.docs.cancel_timers()

    def wanted(self) -> dict[str, str]:
        wanted: dict[str, str] = {}
        for name in NAMES:
            path = self.root / name
            taken = name in self.loaded or (self.mode == "open" and name in self.open and name not in self.dismissed)
            disk = path.read_text() if path.exists() else ""
            text = self.open.get(name, disk) if taken else ""
            if text:
                wanted[name] = text
        return wanted

    async def act(self, kind: str, name: str, text: str) -> None:
        path = self.root / name
        match kind:
            case "open" if name not in self.open:
                self.docs.open(item(path, text))
                self.open[name] = text
                self.dismissed.discard(name)
            case "change" if name in self.open:
                self.docs.change(whole(path, text))
                self.open[name] = text
            case "close":
                self.docs.close(path.as_uri())
                self.open.pop(name, None)
            case "write":
                path.write_text(text)
            case "unlink":
                path.unlink(missing_ok=True)
            case "load":
                self.docs.load(path)
                self.loaded.add(name)
                self.dismissed.discard(name)
            case "dismiss":
                self.docs.dismiss([name])
                self.shelf.texts.pop(name, None)
                self.loaded.discard(name)
                self.dismissed.add(name)
            case "lose":
                self.docs.forget_shelf()
                self.shelf.texts.clear()
            case "flush":
                await self.docs.flush(self.shelf)


# -- with an engine ----------------------------------------------------------------------------------------------------


async def test_edits_replace_the_chunk_in_place_and_are_warm_before_the_question(
    driver: Driver, engine: EngineSetup
) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "one two")
    driver.open(client, "b.txt", "three")
    await engine.wait_texts(lambda texts: set(texts) == {"a.txt", "b.txt"})
    driver.change(client, "a.txt", 2, edit((0, 4), (0, 7), "2"), edit((0, 0), (0, 3), "1"))
    texts = await engine.wait_texts(lambda texts: texts["a.txt"] != "one two")
    assert texts == {"a.txt": "1 2", "b.txt": "three"}
    assert list(texts) == ["a.txt", "b.txt"], "in its place"

    async def warmth() -> list[int]:
        return [chunk["warmTokens"] for chunk in (await client.request("ctx/chunks", {}))["chunks"]]

    assert await eventually(warmth, lambda warm: warm == [2, 1])


async def test_many_keystrokes_are_one_push(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(debounceMs=400)
    driver.open(client, "a.txt", "x")
    await engine.wait_texts(lambda texts: texts == {"a.txt": "x"})
    for number in range(50):
        driver.change(client, "a.txt", number + 2, edit((0, number), (0, number), "x"))
    await engine.wait_texts(lambda texts: texts == {"a.txt": "x" * 51})
    assert (await engine.state())["calls"].count("POST chunks") == 2


async def test_documents_opened_before_the_engine_is_there_are_brought_when_it_is(
    driver: Driver, engine: EngineSetup
) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    for name in ("a.txt", "b.txt"):
        driver.open(client, name, f"text of {name}")
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    await engine.state(load_seconds=0)
    await client.request("ctx/chat", chat())
    (record,) = (await engine.state())["chats"]
    assert record["seen"] == {"a.txt": "text of a.txt", "b.txt": "text of b.txt"}


async def test_a_document_that_does_not_fit_is_inactive_and_does_no_harm(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "small")
    driver.open(client, "huge.txt", "word " * 5000)
    driver.open(client, "large.txt", "word " * 900)
    await client.request("ctx/chat", chat())
    (record,) = (await engine.state())["chats"]
    assert set(record["seen"]) == {"a.txt"}
    chunks = (await client.request("ctx/chunks", {}))["chunks"]
    assert {chunk["name"]: chunk["active"] for chunk in chunks if chunk["kind"] == "file"} == {
        "a.txt": True,
        "large.txt": False,
    }
    messages = [log["message"] for log in client.notifications("window/logMessage")]
    assert any("'huge.txt' has 5000 tokens" in message for message in messages)
    assert any("large.txt" in message and "no room" in message for message in messages)


async def test_a_document_that_outgrows_the_context_leaves_it(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("a.txt", "b.txt"):
        driver.open(client, name, f"text of {name}")
    await engine.wait_texts(lambda texts: set(texts) == {"a.txt", "b.txt"})
    driver.change(client, "a.txt", 2, {"text": "word " * 5000})
    await client.request("ctx/chat", chat(turn="t1"))
    driver.change(client, "a.txt", 3, {"text": "short again"})
    await client.request("ctx/chat", chat(turn="t2"))
    seen = [record["seen"] for record in (await engine.state())["chats"]]
    assert seen[0] == {"b.txt": "text of b.txt"}, "rather not at all than with an old text"
    assert seen[1] == {"b.txt": "text of b.txt", "a.txt": "short again"}


async def test_files_that_change_on_disk_are_followed(driver: Driver, engine: EngineSetup) -> None:
    capabilities = {"workspace": {"didChangeWatchedFiles": {"dynamicRegistration": True}}}
    client = await driver.start(capabilities=capabilities)
    driver.write("a.txt", "one")
    await client.command("ctx.load", paths=["a.txt"])
    registered = await client.wait_for(lambda message: message.get("method") == "client/registerCapability")
    assert registered["params"]["registrations"][0]["method"] == "workspace/didChangeWatchedFiles"
    driver.write("a.txt", "two")
    client.notify("workspace/didChangeWatchedFiles", {"changes": [{"uri": driver.uri("a.txt"), "type": 2}]})
    await engine.wait_texts(lambda texts: texts == {"a.txt": "two"})
    driver.write("a.txt", "three")
    await client.request("ctx/chat", chat())
    (record,) = (await engine.state())["chats"]
    assert record["seen"] == {"a.txt": "three"}, "before a question the disk is looked at, told or not"


async def test_text_sync_full(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "one")
    driver.change(client, "a.txt", 2, {"text": "two"}, {"text": "three"})
    await engine.wait_texts(lambda texts: texts == {"a.txt": "three"})


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", 4), ("utf-16", 2), ("utf-32", 1)])
async def test_positions_in_the_agreed_encoding(
    driver: Driver, engine: EngineSetup, encoding: str, column: int
) -> None:
    client = driver.start_local()
    capabilities = {"general": {"positionEncodings": [encoding]}}
    result = await client.request("initialize", driver.initialize_params(capabilities))
    assert result["capabilities"]["positionEncoding"] == encoding
    client.notify("initialized", {})
    driver.open(client, "a.txt", "😀x")
    driver.change(client, "a.txt", 2, edit((0, column), (0, column + 1), "y"))
    await client.request("ctx/chunks", {})
    await engine.wait_texts(lambda texts: texts == {"a.txt": "😀y"})
