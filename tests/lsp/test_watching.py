"""What happens to files and folders reaches the context: told by the client, seen by the server, or both."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctx_lsp.workspace.watching import Watcher
from tests.lsp.driver import Driver, EngineSetup, chat, eventually, ready
from tests.lsp.wire_client import LocalClient

FILES = {"files": {"maxTokens": 6000}}
TELLS = {"workspace": {"didChangeWatchedFiles": {"dynamicRegistration": True}}}


def renamed(client: LocalClient, old: str, new: str) -> None:
    client.notify("workspace/didRenameFiles", {"files": [{"oldUri": old, "newUri": new}]})


async def with_chunk(driver: Driver, **capabilities: Any) -> LocalClient:
    """A server that the user told to load `old.txt`."""
    client = await ready(await driver.initialize(driver.start_local(), capabilities or None))
    driver.write("old.txt", "the text")
    await client.command("ctx.load", paths=["old.txt"])
    return client


async def hashes(client: LocalClient) -> dict[str, str]:
    chunks = (await client.command("ctx.context"))["chunks"]
    return {source: chunk["hash"] for chunk in chunks for source in chunk["sources"]}


# -- the watcher -------------------------------------------------------------------------------------------------------


async def test_the_server_watches_where_the_client_does_not(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(**FILES)
    driver.write("a.py", "one")
    await engine.wait_texts(lambda texts: texts == {"a.py": "one"})
    driver.write("a.py", "two")
    await engine.wait_texts(lambda texts: texts == {"a.py": "two"})
    driver.write("sub/deep/b.py", "in a new folder")
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "sub/deep/b.py"})
    (driver.workspace / "sub").rename(driver.workspace / "moved")
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "moved/deep/b.py"})
    shutil.rmtree(driver.workspace / "moved")
    await engine.wait_texts(lambda texts: texts == {"a.py": "two"})
    assert not client.notifications("client/registerCapability")


async def test_both_at_once_do_no_harm(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(**FILES)
    for number in range(5):
        path = driver.write("a.py", f"text {number}")
        client.notify("workspace/didChangeWatchedFiles", {"changes": [{"uri": path.as_uri(), "type": 2}] * 2})
        client.notify("workspace/didCreateFiles", {"files": [{"uri": path.as_uri()}]})
    await engine.wait_texts(lambda texts: texts == {"a.py": "text 4"})
    path.unlink()
    client.notify("workspace/didDeleteFiles", {"files": [{"uri": path.as_uri()}]})
    await engine.wait_texts(lambda texts: texts == {})


async def test_added_folders_are_watched_and_removed_ones_are_not(
    driver: Driver, engine: EngineSetup, tmp_path: Path
) -> None:
    client = await driver.start_ready(**FILES)
    driver.write("../second/b.py", "b")
    second = {"uri": (tmp_path / "second").as_uri(), "name": "second"}
    client.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [second], "removed": []}})
    await engine.wait_texts(lambda texts: texts == {"b.py": "b"})
    driver.write("../second/b.py", "changed")
    await engine.wait_texts(lambda texts: texts == {"b.py": "changed"})
    client.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [], "removed": [second]}})
    await engine.wait_texts(lambda texts: texts == {})


async def test_a_client_that_refuses_to_watch_is_done_without(driver: Driver, engine: EngineSetup) -> None:
    client = driver.start_local()
    taken = client.take

    def refuse(message: dict[str, Any]) -> None:
        if message.get("method") == "client/registerCapability":
            client.send({"id": message["id"], "error": {"code": -32603, "message": "no"}})
        else:
            taken(message)

    client.take = refuse  # type: ignore[method-assign]
    await ready(await driver.initialize(client, TELLS, **FILES))
    driver.write("a.py", "one")
    await engine.wait_texts(lambda texts: texts == {"a.py": "one"})


async def test_what_can_not_be_watched_is_left_alone(tmp_path: Path) -> None:
    told: list[Path] = []
    watcher = Watcher(told.extend)
    await watcher.watch([tmp_path / "nowhere", tmp_path])
    (tmp_path / "a").write_text("x")

    async def seen() -> bool:
        return tmp_path / "a" in told

    assert await eventually(seen, bool)
    await watcher.watch([])
    await watcher.stop()
    await watcher.stop()


# -- other names -------------------------------------------------------------------------------------------------------


async def test_a_renamed_file_is_the_same_chunk(driver: Driver, engine: EngineSetup) -> None:
    client = await with_chunk(driver, **TELLS)
    await client.command("ctx.tag", refs=["old.txt"], tags=["mine"])
    before = await hashes(client)
    (driver.workspace / "old.txt").rename(driver.workspace / "new.txt")
    renamed(client, driver.uri("old.txt"), driver.uri("new.txt"))
    assert await hashes(client) == {"new.txt": before["old.txt"]}
    (chunk,) = (await client.request("ctx/chunks", {}))["chunks"]
    assert (chunk["name"], chunk["tags"], chunk["origin"]) == ("new.txt", ["mine"], "user")
    calls = (await engine.state())["calls"]
    last_put, removal = len(calls) - 1 - calls[::-1].index("POST chunks"), calls.index("POST remove_source")
    assert last_put < removal, "it is never gone"
    assert calls.count("POST remove_source") == 1


async def test_a_renamed_folder_takes_its_files_along(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("old/a.txt", "old/deep/b.txt", "older.txt"):
        driver.write(name, f"text of {name}")
    await client.command("ctx.load", paths=["."])
    (driver.workspace / "old").rename(driver.workspace / "new")
    renamed(client, driver.uri("old"), driver.uri("new"))
    assert set(await hashes(client)) == {"new/a.txt", "new/deep/b.txt", "older.txt"}


async def test_an_open_document_that_is_renamed_is_never_gone(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "old.txt", "the text")
    before = await hashes(client)
    (driver.workspace / "old.txt").rename(driver.workspace / "new.txt")
    driver.close(client, "old.txt")
    renamed(client, driver.uri("old.txt"), driver.uri("new.txt"))
    driver.open(client, "new.txt", "the text")
    assert await hashes(client) == {"new.txt": before["old.txt"]}
    calls = (await engine.state())["calls"]
    assert calls.index("POST remove_source") > len(calls) - 1 - calls[::-1].index("POST chunks")


@pytest.mark.parametrize("told", [["old.txt", "new.txt"], ["new.txt"]])
async def test_a_file_that_is_gone_is_found_under_its_other_name(
    driver: Driver, engine: EngineSetup, told: list[str]
) -> None:
    client = await with_chunk(driver, **TELLS)
    await client.command("ctx.pin", refs=["old.txt"])
    driver.write("unlike.txt", "the txet")
    (driver.workspace / "old.txt").rename(driver.workspace / "new.txt")
    changes = [{"uri": driver.uri(name), "type": 2} for name in ("unlike.txt", *told)]
    client.notify("workspace/didChangeWatchedFiles", {"changes": changes})
    assert set(await hashes(client)) == {"new.txt"}
    (chunk,) = (await client.request("ctx/chunks", {}))["chunks"]
    assert (chunk["pinned"], chunk["origin"]) == (True, "user")
    driver.write("new.txt", "followed")
    assert set(await hashes(client)) == {"new.txt"}


async def test_a_file_that_becomes_a_secret_leaves(driver: Driver, engine: EngineSetup) -> None:
    driver.write("settings", "KEY=1")
    client = await driver.start_ready(**FILES)
    await engine.wait_texts(lambda texts: set(texts) == {"settings"})
    (driver.workspace / "settings").rename(driver.workspace / ".env")
    renamed(client, driver.uri("settings"), driver.uri(".env"))
    await client.request("ctx/chat", chat())
    assert "KEY=1" not in (await engine.texts()).values()


async def test_the_servers_capabilities_say_what_it_wants_to_hear(driver: Driver, engine: EngineSetup) -> None:
    offered = {
        "workspace": {"fileOperations": {"didCreate": True, "didRename": True, "didDelete": True}},
        "notebookDocument": {"synchronization": {}},
    }
    result = await driver.start_local().request("initialize", driver.initialize_params(offered))
    capabilities = result["capabilities"]
    every_file = {"filters": [{"pattern": {"glob": "**/*"}, "scheme": "file"}]}
    operations = capabilities["workspace"]["fileOperations"]
    assert operations == dict.fromkeys(("didCreate", "didRename", "didDelete"), every_file)
    assert capabilities["workspace"]["workspaceFolders"]["supported"]
    assert capabilities["notebookDocumentSync"] == {"notebookSelector": [{"notebook": "*"}], "save": True}


async def test_changes_that_concern_nobody_cost_nothing(driver: Driver, engine: EngineSetup) -> None:
    client = await with_chunk(driver, **TELLS)
    calls = len((await engine.state())["calls"])
    git = [{"uri": driver.uri(f".git/objects/{number}"), "type": 1} for number in range(100)]
    client.notify("workspace/didChangeWatchedFiles", {"changes": git})
    await client.request("ctx/status", {})
    await asyncio.sleep(0)
    assert len((await engine.state())["calls"]) == calls
