"""Saved contexts: what comes back, in this session and in the next, whatever became of the files meanwhile."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.commands.saved_contexts import (
    SavedChunk,
    SavedContext,
    SavedContexts,
    SavedSource,
    UnknownSavedContextError,
)
from ctx_lsp.state_folder import StateFolderError, workspace_folder
from engine.errors import InvalidRequestError
from engine.hashing import content_hash
from tests.lsp.driver import Driver, EngineSetup, chat, edit
from tests.lsp.wire_client import LocalClient, RpcError


async def chunk_list(client: LocalClient) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = (await client.request("ctx/chunks", {}))["chunks"]
    return chunks


def gist(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What saving keeps."""
    names = ("hash", "kind", "sources", "tags", "parts", "active", "pinned")
    return [{name: chunk[name] for name in names} for chunk in chunks]


async def furnished(driver: Driver) -> LocalClient:
    """A server whose context has one of everything."""
    client = await driver.start_ready()
    driver.open(client, "open.py", "def open(): ...\n")
    for name in ("src/a.py", "src/b.py", "pinned.md"):
        driver.write(name, f"text of {name}\n")
    await client.command("ctx.load", paths=["src", "pinned.md"])
    await client.request("ctx/chat", chat())
    selection = {"uri": driver.uri("open.py"), "range": edit((0, 4), (0, 8), "")["range"]}
    await client.command("ctx.compose", refs=["src/a.py", "answer 1"], selections=[selection], name="all of it")
    await client.command("ctx.tag", refs=["src/a.py", "all of it"], tags=["one", "two"])
    await client.command("ctx.pin", refs=["pinned.md"])
    await client.command("ctx.deactivate", refs=["src/b.py"])
    await client.command("ctx.move", refs=["all of it", "pinned.md"], position=0)
    return client


async def test_all_comes_back_as_it_was(driver: Driver, engine: EngineSetup) -> None:
    client = await furnished(driver)
    before = gist(await chunk_list(client))
    info = await client.command("ctx.save", name="work")
    assert (info["name"], info["chunks"]) == ("work", len(before))
    await client.command("ctx.tag", refs=["src/a.py"], tags=["-one", "three"])
    await client.command("ctx.unpin", refs=["pinned.md"])
    await client.command("ctx.activate", refs=["src/b.py"])
    await client.command("ctx.delete", refs=["open.py", "all of it", "answer 1"])
    result = await client.command("ctx.restore", name="work")
    assert gist(await chunk_list(client)) == before
    assert gist(result["chunks"]) == before
    assert (result["changed"], result["recovered"], result["lost"]) == ([], [], [])


async def test_all_comes_back_in_another_session(driver: Driver, engine: EngineSetup) -> None:
    client = await furnished(driver)
    before = gist(await chunk_list(client))
    await client.command("ctx.save", name="work")
    await client.close()
    after = await driver.start_ready()
    result = await after.command("ctx.restore", name="work")
    assert gist(await chunk_list(after)) == before
    assert (result["changed"], result["recovered"], result["lost"]) == ([], [], [])
    (record,) = [await after.request("ctx/chat", chat())]
    assert record["stopReason"] == "stop"


async def test_files_follow_their_texts_of_today_and_lost_ones_come_back(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("disk.py", "buffer.py", "gone.py", "same.py"):
        driver.write(name, f"old {name}")
    await client.command("ctx.load", paths=["."])
    await client.command("ctx.compose", refs=["disk.py", "gone.py"], name="pair")
    await client.command("ctx.save", name="work")
    await client.command("ctx.clear")
    driver.write("disk.py", "new on disk")
    (driver.workspace / "gone.py").unlink()
    driver.open(client, "buffer.py", "new in the buffer")
    result = await client.command("ctx.restore", name="work")
    assert (sorted(result["changed"]), result["recovered"], result["lost"]) == (
        ["buffer.py", "disk.py"],
        ["gone.py"],
        [],
    )
    texts = await engine.texts()
    expected = {"disk.py": "new on disk", "buffer.py": "new in the buffer", "gone.py": "old gone.py"}
    assert {name: texts[name] for name in expected} == expected
    by_name = {chunk["name"]: chunk for chunk in await chunk_list(client)}
    assert by_name["pair"]["parts"] == [by_name["disk.py"]["hash"], by_name["gone.py"]["hash"]]
    driver.write("disk.py", "newer on disk")
    driver.change(client, "buffer.py", 2, {"text": "newer in the buffer"})
    driver.write("gone.py", "there again")
    await client.command("ctx.load", paths=["gone.py"])
    texts = await engine.texts()
    assert (texts["disk.py"], texts["buffer.py"]) == ("newer on disk", "newer in the buffer")
    assert texts["gone.py"] == "there again"


async def test_what_was_not_saved_stays_but_is_not_in_the_prompt(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "saved.py", "saved")
    await client.command("ctx.save", name="work")
    driver.open(client, "later.py", "later")
    first = await client.request("ctx/chat", chat())
    await client.command("ctx.restore", name="work")
    chunks = [(chunk["name"], chunk["active"]) for chunk in await chunk_list(client)]
    assert chunks == [("saved.py", True), ("later.py", False), ("answer 1", False)]
    assert first["output"] is not None
    await client.request("ctx/chat", chat(turn="t2"))
    assert (await engine.state())["chats"][1]["seen"] == {"saved.py": "saved"}


async def test_an_answer_of_another_session_takes_no_name_away(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    await client.request("ctx/chat", chat())
    await client.command("ctx.save", name="work")
    await client.command("ctx.clear")
    await engine.state(answer=["Another."])
    await client.request("ctx/chat", chat(turn="t2"))
    await client.command("ctx.restore", name="work")
    texts = await engine.texts()
    assert sorted(texts.values()) == ["A plain answer.", "Another."]
    assert texts["answer 1"] == "Another."


async def test_what_the_engine_no_longer_takes_is_named(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "untitled.py", "word " * 100)
    selection = {"uri": driver.uri("untitled.py"), "range": edit((0, 0), (0, 450), "")["range"]}
    await client.command("ctx.compose", selections=[selection], name="big")
    await client.command("ctx.save", name="work")
    await client.command("ctx.clear")
    await engine.state(limit=50)
    result = await client.command("ctx.restore", name="work")
    assert set(result["lost"]) == {"untitled.py", "untitled.py:1", "big"}
    assert result["chunks"] == []


async def test_saved_contexts_are_listed_replaced_and_forgotten_without_an_engine(
    driver: Driver, engine: EngineSetup
) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.py", "one two three")
    await client.command("ctx.save", name="first")
    await client.command("ctx.save", name="second/../with\ttab")
    driver.open(client, "b.py", "four")
    await client.command("ctx.save", name="first")
    await client.close()
    engine.kill()
    engine.behave(exit_at_start=3)
    client = await driver.start()
    listed = {item["name"]: item for item in (await client.command("ctx.saved"))["contexts"]}
    assert (listed["first"]["chunks"], listed["first"]["activeTokens"]) == (2, 4)
    assert set(listed) == {"first", "second/../with\ttab"}
    items = (await client.request("ctx/slash/complete", {"text": "/restore fi"}))["items"]
    assert [item["label"] for item in items] == ["first"]
    assert (await client.command("ctx.forget", name="first"))["chunks"] == 2
    with pytest.raises(RpcError) as caught:
        await client.command("ctx.forget", name="first")
    assert caught.value.data == {"code": "unknown_saved_context", "names": ["second/../with\ttab"]}


async def test_other_workspaces_have_their_own(driver: Driver, engine: EngineSetup, tmp_path: Path) -> None:
    client = await driver.start_ready()
    await client.command("ctx.save", name="work")
    other = Driver(tmp_path / "other", engine, driver._stack)
    assert (await (await other.start_ready()).command("ctx.saved"))["contexts"] == []


# -- the files ---------------------------------------------------------------------------------------------------------


def saved(name: str, *texts: str) -> SavedContext:
    chunks = tuple(
        SavedChunk(
            hash=content_hash(text),
            kind="file",
            origins=(SavedSource(name=f"{number}.py", path=f"/p/{number}.py"),),
            tags=("t",),
            parts=(),
            active=True,
            pinned=False,
            tokens=1,
            text=text,
        )
        for number, text in enumerate(texts)
    )
    return SavedContext(name=name, saved="2026-01-01T00:00:00+00:00", chunks=chunks)


@given(name=st.text(min_size=1, max_size=200), texts=st.lists(st.text(min_size=1), unique=True))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, name: str, texts: list[str]) -> None:
    store = SavedContexts(tmp_path_factory.mktemp("state"))
    context = saved(name, *(text.encode(errors="replace").decode() for text in texts))
    store.write(context)
    assert store.read(name) == context
    assert store.all() == [context]


@pytest.mark.parametrize("name", ["", "n" * 201])
def test_names_have_a_length(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        SavedContexts(tmp_path).write(saved(name))


def test_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "workspace"
    SavedContexts(folder).write(saved("work", "secret"))
    (path,) = folder.iterdir()
    assert [stat.S_IMODE(item.stat().st_mode) for item in (path, folder, folder.parent)] == [0o600, 0o700, 0o700]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"version": 1}', '{"version": "x"}', "text", "field"])
def test_a_broken_file_is_set_aside_and_harms_no_other(tmp_path: Path, damage: str) -> None:
    store = SavedContexts(tmp_path)
    store.write(saved("work", "one"))
    (path,) = tmp_path.iterdir()
    store.write(saved("other", "two"))
    body = json.loads(path.read_text())
    if damage == "text":
        body["chunks"][0]["text"] = "another"
    if damage == "field":
        del body["chunks"][0]["kind"]
    broken = json.dumps(body) if damage in ("text", "field") else damage
    path.write_text(broken)
    assert [context.name for context in store.all()] == ["other"]
    (aside,) = path.parent.glob(f"{path.name}.broken-*")
    assert aside.read_text() == broken
    with pytest.raises(UnknownSavedContextError) as caught:
        store.read("work")
    assert caught.value.data == {"names": ["other"]}
    store.write(saved("work", "anew"))
    assert store.read("work") == saved("work", "anew")


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = SavedContexts(tmp_path)
    store.write(saved("work", "one"))
    (path,) = tmp_path.iterdir()
    path.write_text(newer := json.dumps({"version": 2, "name": "work", "novelty": []}))
    assert store.all() == []
    for attempt in (lambda: store.read("work"), lambda: store.write(saved("work")), lambda: store.forget("work")):
        with pytest.raises(StateFolderError, match="newer version"):
            attempt()
    assert path.read_text() == newer


def test_a_folder_that_can_not_be_used_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFolderError) as caught:
        SavedContexts(tmp_path / "file" / "contexts").write(saved("work"))
    assert str(tmp_path / "file") in caught.value.data["path"]


def test_a_workspace_is_its_folders_in_any_order() -> None:
    a, b = Path("/x/a"), Path("/x/b")
    assert workspace_folder([a, b]) == workspace_folder([b, a])
    assert len({workspace_folder(folders) for folders in ([], [a], [b], [a, b])}) == 4
