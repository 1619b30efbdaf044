"""The workspace's files come by themselves: the latest first, within their budget, and go again."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctx_lsp.workspace.ignore_rules import walk
from tests.lsp.driver import Driver, EngineSetup, chat, eventually
from tests.lsp.wire_client import LocalClient, RpcError

FILES = {"files": {"maxTokens": 6000}}


def aged(driver: Driver, *names: str, text: str = "text of {}") -> None:
    """Files, the latest first."""
    for age, name in enumerate(names):
        os.utime(driver.write(name, text.format(name)), (2_000_000_000 - age, 2_000_000_000 - age))


def touched(client: LocalClient, *paths: Path) -> None:
    """The client tells of changes on disk."""
    changes = [{"uri": path.as_uri(), "type": 2} for path in paths]
    client.notify("workspace/didChangeWatchedFiles", {"changes": changes})


async def chunks(client: LocalClient) -> dict[str, dict[str, Any]]:
    return {chunk["name"]: chunk for chunk in (await client.request("ctx/chunks", {}))["chunks"]}


async def left_out(client: LocalClient) -> dict[str, str]:
    return {item["source"]: item["reason"] for item in (await client.request("ctx/chunks", {}))["leftOut"]}


async def active(client: LocalClient) -> set[str]:
    return {name for name, chunk in (await chunks(client)).items() if chunk["active"]}


# -- what is loaded ----------------------------------------------------------------------------------------------------


async def test_files_are_loaded_when_the_engine_is_ready(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "new.py", "sub/old.py")
    aged(driver, ".env", "poetry.lock", "node_modules/x.js")
    driver.write("image.png", "\0")
    client = await driver.start_ready(**FILES)
    texts = await engine.wait_texts(lambda texts: len(texts) == 2)
    assert list(texts) == ["new.py", "sub/old.py"]
    assert {chunk["origin"] for chunk in (await chunks(client)).values()} == {"automatic"}


async def test_the_budget_takes_the_latest_and_says_what_is_left(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "1.py", "2.py", "3.py", "4.py", text="{0} " * 15)
    client = await driver.start_ready(files={"maxTokens": 40})
    await engine.wait_texts(lambda texts: set(texts) == {"1.py", "2.py"})
    left = await eventually(lambda: left_out(client), lambda left: "3.py" in left)
    assert left == dict.fromkeys(["3.py", "4.py"], "beyond the 40 tokens that are loaded by themselves")
    driver.write("1.py", "smaller")
    touched(client, driver.workspace / "1.py")
    await engine.wait_texts(lambda texts: set(texts) == {"1.py", "2.py", "3.py"})


async def test_manual_loads_nothing_until_it_is_asked_to(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "a.py", "b.py")
    client = await driver.start_ready(documents="manual", **FILES)
    assert await chunks(client) == {}
    await client.command("ctx.load", discover=True)
    assert set(await chunks(client)) == {"a.py", "b.py"}


async def test_what_was_deleted_by_the_user_stays_away(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "a.py", "b.py")
    client = await driver.start_ready(**FILES)
    await engine.wait_texts(lambda texts: len(texts) == 2)
    await client.command("ctx.delete", refs=["a.py"])
    await client.command("ctx.load", discover=True)
    assert set(await chunks(client)) == {"b.py"}


async def test_created_changed_and_deleted_files_are_followed(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "a.py")
    client = await driver.start_ready(**FILES)
    await engine.wait_texts(lambda texts: set(texts) == {"a.py"})
    touched(client, driver.write("b.py", "created"), driver.write("sub/c.py", "too").parent, driver.write(".env", "no"))
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "b.py", "sub/c.py"})
    touched(client, driver.write("b.py", "changed"))
    await engine.wait_texts(lambda texts: texts["b.py"] == "changed")
    (driver.workspace / "b.py").unlink()
    touched(client, driver.workspace / "b.py")
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "sub/c.py"})


async def test_ignore_files_are_followed(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "a.py", "b.py")
    client = await driver.start_ready(**FILES)
    driver.open(client, "c.py", "open")
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "b.py", "c.py"})
    touched(client, driver.write(".ctxignore", "b.py\nc.py\n.ctxignore\n"))
    await engine.wait_texts(lambda texts: set(texts) == {"a.py"})
    assert (await left_out(client))["c.py"].startswith("ignored by .ctxignore")
    (driver.workspace / ".ctxignore").unlink()
    touched(client, driver.workspace / ".ctxignore")
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "b.py", "c.py"})


async def test_folders_bring_and_take_their_files(driver: Driver, engine: EngineSetup, tmp_path: Path) -> None:
    aged(driver, "a.py")
    aged(driver, "../second/b.py", "../second/mine.py")
    client = await driver.start_ready(**FILES)
    await engine.wait_texts(lambda texts: set(texts) == {"a.py"})
    second = {"uri": (tmp_path / "second").as_uri(), "name": "second"}
    client.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [second], "removed": []}})
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "b.py", "mine.py"})
    await client.command("ctx.pin", refs=["mine.py"])
    client.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [], "removed": [second]}})
    await engine.wait_texts(lambda texts: set(texts) == {"a.py", "mine.py"})


async def test_a_file_that_is_opened_and_closed_stays(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "a.py")
    client = await driver.start_ready(**FILES)
    await engine.wait_texts(lambda texts: set(texts) == {"a.py"})
    driver.open(client, "a.py", "in the editor")
    await engine.wait_texts(lambda texts: texts == {"a.py": "in the editor"})
    driver.write("a.py", "saved by another")
    touched(client, driver.workspace / "a.py")
    await client.request("ctx/chat", chat())
    assert (await engine.texts())["a.py"] == "in the editor"
    driver.close(client, "a.py")
    await engine.wait_texts(lambda texts: texts["a.py"] == "saved by another")


async def test_files_come_back_with_a_new_engine(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "a.py", "b.py")
    client = await driver.start_ready(**FILES)
    await engine.wait_texts(lambda texts: len(texts) == 2)
    engine.kill()
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "stopped")
    await client.request("ctx/chat", chat())
    assert set(await engine.texts()) >= {"a.py", "b.py"}


async def test_many_files_do_not_keep_initialize_waiting(driver: Driver, engine: EngineSetup) -> None:
    for number in range(300):
        driver.write(f"{number % 10}/{number}.py", f"text {number}")
    client = driver.start_local()
    await client.request("initialize", driver.initialize_params({}, files={"maxTokens": 100}))
    client.notify("initialized", {})
    await client.request("ctx/status", {})
    await eventually(lambda: chunks(client), lambda found: len(found) == 50)


async def test_the_client_can_cancel_it(driver: Driver, engine: EngineSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(driver, "a.py", "b.py")
    may_go_on = threading.Event()

    def slow_walk(*args: Any) -> Iterator[Path]:
        may_go_on.wait()
        yield from walk(*args)

    monkeypatch.setattr("ctx_lsp.workspace.admission.walk", slow_walk)
    try:
        client = await driver.start_ready(**FILES)
        bar = await client.wait_notification("$/progress", lambda it: "workspace" in it["value"].get("title", ""))
        assert bar["value"]["cancellable"]
        client.notify("window/workDoneProgress/cancel", {"token": bar["token"]})
        await client.request("ctx/status", {})
    finally:
        may_go_on.set()
    await client.wait_notification("$/progress", lambda it: it == {"token": bar["token"], "value": {"kind": "end"}})
    touched(client, driver.write("c.py", "new"))
    driver.open(client, "d.py", "open")
    await engine.wait_texts(lambda texts: set(texts) == {"d.py"})
    await client.command("ctx.load", discover=True)
    assert set(await chunks(client)) == {"a.py", "b.py", "c.py", "d.py"}


# -- what is left out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (".env", "KEY=1", "may hold secrets"),
        ("notes.txt", "-----BEGIN PRIVATE KEY-----\n", "holds a private key"),
        ("out/x.py", "x", "ignored by .gitignore"),
        ("x.lock", "x", "generated, data, or boilerplate"),
        (".git/COMMIT_EDITMSG", "x", "below .git"),
        ("big.txt", "x y " * 300_000, "larger than 1024 KiB (1,200,000 bytes)"),
    ],
)
async def test_opening_does_not_load_it_but_its_name_does(
    driver: Driver, engine: EngineSetup, name: str, text: str, reason: str
) -> None:
    driver.write(".gitignore", "out/")
    client = await driver.start_ready()
    driver.open(client, name, text)
    driver.open(client, "a.py", "x = 1")
    await engine.wait_texts(lambda texts: "a.py" in texts)
    assert set(await chunks(client)) == {"a.py"}
    assert (await left_out(client))[name] == f"{reason}; load it by name to have it all the same"
    if name != "big.txt":
        await client.command("ctx.load", paths=[name])
        assert (await chunks(client))[name]["origin"] == "user"
    assert name == "big.txt" or name not in await left_out(client)
    driver.close(client, name)
    await client.request("ctx/chat", chat())
    assert name not in await left_out(client)


async def test_a_document_that_was_never_saved_is_loaded_by_its_name(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(documents="manual")
    driver.open(client, "new.py", "not on disk")
    (driver.workspace / "new.py").unlink()
    await client.command("ctx.load", paths=["new.py"])
    assert await engine.texts() == {"new.py": "not on disk"}


async def test_only_what_an_editor_shows_is_the_users_context(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("seen.py", "unseen.py"):
        driver.open(client, name, f"text of {name}")
    await engine.wait_texts(lambda texts: len(texts) == 2)
    client.notify("ctx/editors/didChangeVisible", {"uris": [driver.uri("seen.py")]})
    await engine.wait_texts(lambda texts: set(texts) == {"seen.py"})
    driver.open(client, "later.py", "opened, not shown")
    await client.request("ctx/chat", chat())
    assert set(await engine.texts()) == {"seen.py"} | {name for name in await engine.texts() if "answer" in name}
    client.notify("ctx/editors/didChangeVisible", {"uris": [driver.uri("later.py")]})
    await engine.wait_texts(lambda texts: "later.py" in texts and "seen.py" not in texts)


# -- room --------------------------------------------------------------------------------------------------------------


async def test_what_was_touched_least_yields_and_returns(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("a", "b", "c"):
        driver.open(client, name, f"{name} " * 300)
    await client.request("ctx/chat", chat(turn="t1"))
    assert await active(client) == {"b", "c"}
    assert (await left_out(client))["a"].startswith("no room for its 300 tokens")
    driver.change(client, "a", 2, {"text": "A " * 300})
    await client.request("ctx/chat", chat(turn="t2"))
    assert await active(client) == {"a", "c"}
    driver.close(client, "c")
    await client.request("ctx/chat", chat(turn="t3"))
    assert await active(client) == {"a", "b"}
    assert await left_out(client) == {}


async def test_automatic_chunks_yield_to_what_the_user_activates(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("a", "b", "c"):
        driver.open(client, name, f"{name} " * 300)
    await client.request("ctx/chat", chat())
    await client.command("ctx.activate", refs=["a"])
    assert await active(client) == {"a", "c"}
    assert (await chunks(client))["a"]["origin"] == "user"
    await client.command("ctx.activate", refs=["b"])
    assert await active(client) == {"a", "b"}
    with pytest.raises(RpcError) as caught:
        await client.command("ctx.activate", refs=["c"])
    assert caught.value.data == {"code": "context_full", "needed": 900, "limit": 875}
    assert await active(client) == {"a", "b"}


async def test_an_automatic_newcomer_does_not_push_out_the_users(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.write("mine", "m " * 800)
    await client.command("ctx.load", paths=["mine"])
    driver.open(client, "new", "n " * 300)
    await client.request("ctx/chat", chat())
    assert await active(client) == {"mine"}
    assert set(await left_out(client)) == {"new"}


async def test_what_the_user_deactivated_stays_so(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, "a.py", "b.py")
    client = await driver.start_ready(**FILES)
    await engine.wait_texts(lambda texts: len(texts) == 2)
    await client.command("ctx.deactivate", refs=["a.py"])
    driver.open(client, "a.py", "opened and edited")
    await client.request("ctx/chat", chat(turn="t1"))
    assert await active(client) == {"b.py"}
    driver.close(client, "a.py")
    await client.request("ctx/chat", chat(turn="t2"))
    assert await active(client) == {"b.py"}
    assert "a.py" in await chunks(client)


async def test_a_chunk_of_the_users_that_loses_its_room_is_told_and_returns(
    driver: Driver, engine: EngineSetup
) -> None:
    client = await driver.start_ready()
    for name in ("first", "second"):
        driver.open(client, name, f"{name} " * 400)
        await client.command("ctx.pin", refs=[name])
    driver.change(client, "first", 2, {"text": "grown " * 600})
    await client.request("ctx/chat", chat(turn="t1"))
    assert await active(client) == {"first"}
    assert set(await left_out(client)) == {"second"}
    logged = [log["message"] for log in client.notifications("window/logMessage")]
    assert any(message.startswith("second is not active in the context: no room") for message in logged)
    driver.change(client, "first", 3, {"text": "small"})
    await client.request("ctx/chat", chat(turn="t2"))
    assert await active(client) == {"first", "second"}


async def test_a_user_made_chunk_survives_the_closing_of_its_document(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "kept", "in the editor")
    driver.write("kept", "on disk")
    await client.request("ctx/chunks", {})
    await client.command("ctx.tag", refs=["kept"], tags=["mine"])
    driver.close(client, "kept")
    await engine.wait_texts(lambda texts: texts == {"kept": "on disk"})
    assert (await chunks(client))["kept"]["tags"] == ["mine"]


async def test_loading_can_be_cancelled_by_who_asked(driver: Driver, engine: EngineSetup) -> None:
    aged(driver, *(f"{number}.py" for number in range(40)))
    client = await driver.start_ready(documents="manual", **FILES)
    id = client.post("workspace/executeCommand", {"command": "ctx.load", "arguments": [{"discover": True}]})
    client.cancel(id)
    with pytest.raises(RpcError):
        await client.result(id)
    await asyncio.sleep(0)
    await client.command("ctx.load", discover=True)
    assert len(await chunks(client)) == 40
