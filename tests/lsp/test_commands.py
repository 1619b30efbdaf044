"""Commands, and bad input to them: each answers with Markdown and typed data, or with an error that helps."""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import Any

import pytest

from ctx_lsp import protocol, wire
from tests.lsp.driver import Driver, EngineSetup, chat
from tests.lsp.wire_client import LocalClient, RpcError


async def chunk_list(client: LocalClient) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = (await client.request("ctx/chunks", {}))["chunks"]
    return chunks


async def fails(client: LocalClient, command: str, **argument: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await client.command(command, **argument)
    return caught.value


async def with_chunks(driver: Driver, **texts: str) -> LocalClient:
    """A server whose context has these texts under these names."""
    client = await driver.start_ready()
    for name, text in texts.items():
        driver.write(name, text)
    await client.command("ctx.load", paths=list(texts))
    return client


async def test_load_says_what_became_of_each_path(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.write("src/good.py", "one two three")
    driver.write("src/same.py", "one two three")
    driver.write("src/empty.py", "")
    driver.write("src/image.png", "a\0b")
    driver.write("huge.txt", "word " * 2000)
    (driver.workspace / "latin.txt").write_bytes(b"caf\xe9")
    result = await client.command("ctx.load", paths=["src", "latin.txt", "huge.txt", "gone.txt"])
    assert [(chunk["name"], chunk["sources"]) for chunk in result["loaded"]] == [
        ("src/good.py", ["src/good.py", "src/same.py"])
    ]
    assert {item["path"]: item["reason"] for item in result["skipped"]} == {
        "gone.txt": "no such file",
        "src/empty.py": "empty",
        "src/image.png": "binary",
        "latin.txt": "not UTF-8 (byte 3)",
        "huge.txt": "'huge.txt' has 2000 tokens, the limit is 1000",
    }
    assert [chunk["name"] for chunk in await chunk_list(client)] == ["src/good.py"]


async def test_load_stops_where_the_context_is_full(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("a.txt", "b.txt", "c.txt"):
        driver.write(name, f"{name} " * 400)
    result = await client.command("ctx.load", paths=["."])
    assert [chunk["name"] for chunk in result["loaded"]] == ["a.txt", "b.txt"]
    assert result["skipped"] == [
        {"path": "c.txt", "reason": "no room for its 400 tokens: 800 of 1,000 are taken by active chunks"}
    ]
    assert (await client.request("ctx/chat", chat()))["stopReason"] == "stop"


async def test_discover_loads_what_is_worth_it(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(documents="manual", files={"maxTokens": 6000})
    for age, name in enumerate(("new.py", "old.py")):
        os.utime(driver.write(name, f"text of {name}"), (2_000_000_000 - age, 2_000_000_000 - age))
    driver.write("image.png", "\0")
    result = await client.command("ctx.load", discover=True)
    assert [chunk["name"] for chunk in result["loaded"]] == ["new.py", "old.py"]
    assert result["skipped"] == []


async def test_an_open_document_is_loaded_as_the_editor_has_it(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(documents="manual")
    driver.open(client, "a.txt", "as opened")
    driver.change(client, "a.txt", 2, {"text": "as edited"})
    await client.command("ctx.load", paths=["a.txt"])
    assert await engine.texts() == {"a.txt": "as edited"}


async def test_every_result_has_markdown_and_data_of_its_type(driver: Driver, engine: EngineSetup) -> None:
    client = await with_chunks(driver, a="one", b="two", c="three")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("ctx.context", {}),
        ("ctx.deactivate", {"refs": ["a", "b"]}),
        ("ctx.activate", {"refs": ["a"]}),
        ("ctx.tag", {"refs": ["a", "b"], "tags": ["x", "y"]}),
        ("ctx.tag", {"refs": ["a"], "tags": ["-y"]}),
        ("ctx.compose", {"refs": ["a", "c"], "name": "both"}),
        ("ctx.populate", {}),
        ("ctx.populate", {"refs": ["a"]}),
        ("ctx.pin", {"refs": ["a"]}),
        ("ctx.unpin", {"refs": ["a"]}),
        ("ctx.load", {"paths": ["a"]}),
        ("ctx.move", {"refs": ["c", "a"], "position": 0}),
        ("ctx.save", {"name": "mine"}),
        ("ctx.saved", {}),
        ("ctx.restore", {"name": "mine"}),
        ("ctx.forget", {"name": "mine"}),
        ("ctx.plan", {"text": "What?"}),
        ("ctx.stats", {}),
        ("ctx.delete", {"refs": ["b"]}),
        ("ctx.clear", {"scope": "outputs"}),
        ("ctx.clear", {}),
    ]
    for name, argument in calls:
        params = {"command": name, "arguments": [argument]}
        result = wire.from_json(await client.request("workspace/executeCommand", params), protocol.CommandResult)
        data = protocol.METHODS[name].data
        assert data is not None
        assert result.markdown
        wire.from_json(result.data, data)


async def test_chunks_are_switched_tagged_and_composed(driver: Driver, engine: EngineSetup) -> None:
    client = await with_chunks(driver, a="one", b="two", c="three")
    await client.command("ctx.tag", refs=["a", "b"], tags=["#pair"])
    switched = await client.command("ctx.deactivate", refs=["#pair"])
    assert [(chunk["name"], chunk["active"]) for chunk in switched["chunks"]] == [("a", False), ("b", False)]
    hash = switched["chunks"][0]["hash"]
    assert (await client.command("ctx.activate", refs=[hash[:6]]))["chunks"][0]["name"] == "a"
    composed = await client.command("ctx.compose", refs=["a", "b"], name="both")
    assert (composed["kind"], composed["name"], len(composed["parts"])) == ("composition", "both", 2)
    assert [chunk["active"] for chunk in await chunk_list(client)] == [True, False, True, True]


async def test_chunks_are_pinned_and_unpinned(driver: Driver, engine: EngineSetup) -> None:
    client = await with_chunks(driver, a="one", b="two", c="three")
    await client.command("ctx.tag", refs=["a", "b"], tags=["pair"])
    pinned = await client.command("ctx.pin", refs=["#pair"])
    assert [(chunk["name"], chunk["pinned"]) for chunk in pinned["chunks"]] == [("a", True), ("b", True)]
    unpinned = await client.command("ctx.unpin", refs=["b"])
    assert [(chunk["name"], chunk["pinned"]) for chunk in unpinned["chunks"]] == [("b", False)]
    assert [chunk["pinned"] for chunk in await chunk_list(client)] == [True, False, False]
    calls = (await engine.state())["calls"]
    assert (calls.count("POST pin"), calls.count("POST unpin")) == (1, 1)
    assert (await fails(client, "ctx.pin", refs=["nowhere"])).data["code"] == "unknown_chunk"


async def test_what_is_deleted_stays_away_when_it_is_edited(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "one")
    driver.open(client, "b.txt", "two")
    await client.command("ctx.delete", refs=["a.txt"])
    driver.change(client, "a.txt", 2, {"text": "edited"})
    driver.change(client, "b.txt", 2, {"text": "edited too"})
    await client.request("ctx/chat", chat())
    (record,) = (await engine.state())["chats"]
    assert record["seen"] == {"b.txt": "edited too"}


async def test_clear_has_three_scopes(driver: Driver, engine: EngineSetup) -> None:
    client = await with_chunks(driver, a="one")
    await client.request("ctx/chat", chat("first", "t1"))
    assert [chunk["kind"] for chunk in await chunk_list(client)] == ["file", "output"]
    await client.command("ctx.clear", scope="outputs")
    assert [chunk["kind"] for chunk in await chunk_list(client)] == ["file"]
    await client.command("ctx.clear", scope="conversation")
    await client.request("ctx/chat", chat("second", "t2"))
    await client.command("ctx.clear")
    assert await chunk_list(client) == []
    await client.request("ctx/chat", chat("third", "t3"))
    bodies = [record["body"] for record in (await engine.state())["chats"]]
    assert [len(body["messages"]) for body in bodies] == [1, 1, 1]


async def test_refs_that_mean_nothing_or_too_much(driver: Driver, engine: EngineSetup) -> None:
    one, two = twins()
    client = await with_chunks(driver, a=one, b=two)
    error = await fails(client, "ctx.activate", refs=["0" * 64])
    assert (error.code, error.data["code"]) == (-32803, "unknown_chunk")
    assert (await fails(client, "ctx.delete", refs=["no/such/file"])).data["code"] == "unknown_chunk"
    assert (await fails(client, "ctx.tag", refs=["#untagged"], tags=["x"])).data["code"] == "unknown_chunk"
    error = await fails(client, "ctx.activate", refs=[sha256(one)[:4]])
    assert error.data == {"code": "ambiguous_chunk", "candidates": [sha256(one), sha256(two)]}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def twins() -> tuple[str, str]:
    """Two texts whose hashes begin alike."""
    seen: dict[str, str] = {}
    for number in itertools.count():
        text = f"text {number}"
        twin = seen.setdefault(sha256(text)[:4], text)
        if twin != text:
            return twin, text
    raise AssertionError


@pytest.mark.parametrize(
    ("command", "argument", "problem"),
    [
        ("ctx.load", {"paths": "a.txt"}, 'paths: expected an array, got "a.txt"'),
        ("ctx.activate", {}, "refs: is missing"),
        ("ctx.activate", {"refs": [1]}, "refs[0]: expected a string, got an integer"),
        ("ctx.pin", {"refs": "a"}, 'refs: expected an array, got "a"'),
        ("ctx.clear", {"scope": "files"}, 'scope: expected one of "all", "outputs", "conversation", got "files"'),
    ],
)
async def test_wrong_types_name_the_field(driver: Driver, command: str, argument: dict[str, Any], problem: str) -> None:
    error = await fails(await driver.start(), command, **argument)
    assert (error.code, error.message) == (-32602, problem)


async def test_tokens_of_parts_count_once(driver: Driver, engine: EngineSetup) -> None:
    client = await with_chunks(driver, a="one two", b="three", c="four five six")
    await client.command("ctx.compose", refs=["a", "b"], name="both")
    await client.command("ctx.deactivate", refs=["c", "a"])
    await client.command("ctx.populate")
    stats = await client.command("ctx.stats")
    assert (stats["chunks"], stats["activeChunks"], stats["tokens"]) == (4, 2, 6)
    assert (await client.command("ctx.save", name="it"))["activeTokens"] == 3
    assert stats["engine"]["blocksTotal"] == 10


@pytest.mark.parametrize(
    ("refs", "position", "order"),
    [
        (["c"], 0, "cabd"),
        (["a"], -1, "bcda"),
        (["a"], -2, "bcad"),
        (["d", "a"], 1, "bdac"),
        (["a", "b"], 99, "cdab"),
        (["b", "c"], -99, "bcad"),
        (["d"], 3, "abcd"),
    ],
)
async def test_chunks_are_moved_to_a_place(
    driver: Driver, engine: EngineSetup, refs: list[str], position: int, order: str
) -> None:
    client = await with_chunks(driver, a="one", b="two", c="three", d="four")
    result = await client.command("ctx.move", refs=refs, position=position)
    assert "".join(chunk["name"] for chunk in result["chunks"]) == order
