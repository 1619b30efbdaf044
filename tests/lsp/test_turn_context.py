"""What a single question is about: files and selections, read as they are in the editor, kept with the turn."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lsp.driver import Driver, EngineSetup, chat, edit
from tests.lsp.wire_client import RpcError, WireClient


def between(start: tuple[int, int], end: tuple[int, int]) -> dict[str, Any]:
    return {key: {"line": line, "character": at} for key, (line, at) in (("start", start), ("end", end))}


async def prompt(engine: EngineSetup) -> str:
    """The last message of the last prompt."""
    *_, record = (await engine.state())["chats"]
    content: str = record["body"]["messages"][-1]["content"]
    return content


async def refused(client: WireClient, **context: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat(context=context))
    return caught.value


async def test_files_and_selections_stand_before_the_question(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(documents="manual")
    driver.write("src/a.py", "x = 1\n")
    driver.open(client, "b.ts", "old\nsecond\nthird\n")
    driver.change(client, "b.ts", 2, edit((0, 0), (0, 3), "😀 new"))
    context = {
        "files": ["src/a.py", driver.uri("b.ts")],
        "selections": [{"uri": driver.uri("b.ts"), "range": between((0, 2), (1, 3))}],
    }
    await client.request("ctx/chat", chat("What?", context=context, conversationId="c"))
    assert await prompt(engine) == (
        "File: src/a.py\n```python\nx = 1\n```\nEnd of file: src/a.py\n\n"
        "File: b.ts\n```typescript\n😀 new\nsecond\nthird\n```\nEnd of file: b.ts\n\n"
        "Selection from: b.ts:1-2\n```typescript\n new\nsec\n```\nEnd of selection from: b.ts:1-2\n\n"
        "What?"
    )
    assert (await client.request("ctx/chunks", {}))["activeTokens"] == 0, "the active set is as it was"
    (turn,) = (await client.request("ctx/chat/history", {"conversationId": "c"}))["turns"]
    assert turn["question"] == "What?"
    assert [(item["source"], item["range"] is None, item["text"]) for item in turn["context"]] == [
        ("src/a.py", True, "x = 1\n"),
        ("b.ts", True, "😀 new\nsecond\nthird\n"),
        ("b.ts:1-2", False, " new\nsec"),
    ]


@pytest.mark.parametrize(("encoding", "start"), [("utf-8", 4), ("utf-16", 2), ("utf-32", 1)])
async def test_ranges_count_as_agreed(driver: Driver, engine: EngineSetup, encoding: str, start: int) -> None:
    client = await driver.initialize(driver.start_local(), {"general": {"positionEncodings": [encoding]}})
    driver.open(client, "a.txt", "😀tail")
    selection = {"uri": driver.uri("a.txt"), "range": between((0, start), (0, 99))}
    await client.request("ctx/chat", chat(context={"selections": [selection]}))
    assert "\ntail\n" in await prompt(engine)


async def test_later_turns_still_see_it_as_it_was(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    path = driver.write("a.txt", "before\n")
    await client.request("ctx/chat", chat("one", "t1", context={"files": [str(path)]}))
    path.write_text("after\n")
    await client.request("ctx/chat", chat("two", "t2"))
    *_, record = (await engine.state())["chats"]
    first, _, last = (message["content"] for message in record["body"]["messages"])
    assert "before" in first
    assert last == "two"


async def test_asking_anew_keeps_the_context_unless_another_is_given(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    path = driver.write("a.txt", "before\n")
    await client.request("ctx/chat", chat("one", "t1", context={"files": ["a.txt"]}))
    path.write_text("after\n")
    await client.request("ctx/chat", chat(None, "t2", replaces="t1"))
    assert (await prompt(engine)).count("before") == 1
    await client.request("ctx/chat", chat(None, "t3", replaces="t2", context={"files": ["a.txt"]}))
    assert (await prompt(engine)).count("after") == 1
    await client.request("ctx/chat", chat("else", "t4", replaces="t3", context={}))
    assert await prompt(engine) == "else"


async def test_a_plan_counts_it(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.write("a.txt", "word " * 100)
    bare = await client.request("ctx/plan", {"text": "x"})
    full = await client.request("ctx/plan", {"text": "x", "context": {"files": ["a.txt"]}})
    assert full["tokens"] >= bare["tokens"] + 100


async def test_what_cannot_be_read_is_named(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.write("empty.txt", "")
    driver.write("fine.txt", "fine")
    (driver.workspace / "binary").write_bytes(b"\0\1")
    error = await refused(
        client,
        files=["missing.py", "fine.txt", "empty.txt", "binary", ".", "git:/somewhere.py"],
        selections=[{"uri": driver.uri("fine.txt"), "range": between((0, 2), (0, 2))}],
    )
    assert (error.code, error.data["code"]) == (-32803, "unreadable_context")
    expected = {
        driver.uri("missing.py"): "no such file",
        driver.uri("empty.txt"): "empty",
        driver.uri("binary"): "binary",
        driver.uri("."): "not a regular file",
        "git:/somewhere.py": "neither open nor a file",
        driver.uri("fine.txt"): "nothing is selected",
    }
    unreadable = {item["uri"]: item["reason"] for item in error.data["unreadable"]}
    assert unreadable.keys() == expected.keys()
    assert all(expected[uri] in unreadable[uri] for uri in expected)
    assert all(reason in error.message for reason in unreadable.values())
    assert (await engine.state())["chats"] == []


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (2**31, 0)])
async def test_impossible_positions_are_refused(driver: Driver, engine: EngineSetup, position: Any) -> None:
    client = await driver.start_ready()
    driver.write("a.txt", "text")
    selection = {"uri": driver.uri("a.txt"), "range": between((0, 0), position)}
    assert (await refused(client, selections=[selection])).code == -32602
