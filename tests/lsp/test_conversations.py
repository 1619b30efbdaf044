"""Conversations from the wire to the disk and back: asking anew, forking, listing, and two servers on one workspace."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.lsp.driver import Driver, EngineSetup, chat, ready
from tests.lsp.wire_client import LocalClient, RpcError, WireClient

WORDS = [f"word{number} " for number in range(50)]


async def ask(client: WireClient, engine: EngineSetup, text: str | None, turn: str, **fields: Any) -> Any:
    """A question whose answer says which question it was."""
    await engine.state(answer=[f"answer to {str(text)[:9]} ", turn])
    return await client.request("ctx/chat", {"turnId": turn, "text": text, "conversationId": "c", **fields})


async def history(client: WireClient, conversation: str = "c") -> list[tuple[str, str]]:
    result = await client.request("ctx/chat/history", {"conversationId": conversation})
    assert result["conversation"]["turns"] == len(result["turns"])
    return [(turn["turnId"], turn["question"]) for turn in result["turns"]]


async def listed(client: WireClient) -> dict[str, Any]:
    result = await client.request("ctx/chat/conversations", {})
    return {info["conversationId"]: info for info in result["conversations"]}


async def asked(engine: EngineSetup) -> list[str]:
    """The contents of the last prompt's messages."""
    *_, record = (await engine.state())["chats"]
    return [message["content"] for message in record["body"]["messages"]]


async def fails(client: WireClient, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await client.request(method, params)
    return caught.value


def files(driver: Driver, pattern: str = "*.json") -> list[Path]:
    return sorted((driver.workspace.parent / "state").rglob(pattern))


async def three_turns(driver: Driver, engine: EngineSetup) -> LocalClient:
    client = await driver.start_ready()
    for number, text in enumerate(("one", "two", "three"), start=1):
        await ask(client, engine, text, f"t{number}")
    return client


# -- asking anew -------------------------------------------------------------------------------------------------------


async def test_editing_a_question_takes_back_what_came_after(driver: Driver, engine: EngineSetup) -> None:
    client = await three_turns(driver, engine)
    await ask(client, engine, "other", "t4", replaces="t2")
    assert await asked(engine) == ["one", "answer to one t1", "other"]
    assert await history(client) == [("t1", "one"), ("t4", "other")]


async def test_regenerating_asks_the_same_again(driver: Driver, engine: EngineSetup) -> None:
    client = await three_turns(driver, engine)
    await ask(client, engine, None, "t4", replaces="t3")
    assert (await asked(engine))[-1] == "three"
    assert await history(client) == [("t1", "one"), ("t2", "two"), ("t4", "three")]


async def test_a_turn_may_take_its_own_name_again(driver: Driver, engine: EngineSetup) -> None:
    client = await three_turns(driver, engine)
    await ask(client, engine, "two!", "t2", replaces="t2")
    assert await history(client) == [("t1", "one"), ("t2", "two!")]


@pytest.mark.parametrize("end", ["cancel", "failure"])
async def test_asking_anew_in_vain_changes_nothing(driver: Driver, engine: EngineSetup, end: str) -> None:
    client = await three_turns(driver, engine)
    before = await client.request("ctx/chat/history", {"conversationId": "c"})
    behavior: dict[str, Any] = {"stall_after": 5} if end == "cancel" else {"error_after": 5}
    await engine.state(answer=WORDS, **behavior)
    msg_id = client.post("ctx/chat", chat("other", "t4", conversationId="c", replaces="t1"))
    await client.wait_notification("ctx/chat/delta", lambda delta: delta["turnId"] == "t4")
    client.cancel(msg_id)
    with pytest.raises(RpcError):
        await client.result(msg_id)
    assert await client.request("ctx/chat/history", {"conversationId": "c"}) == before
    await engine.state(stall_after=None, error_after=None)
    await ask(client, engine, "four", "t5")
    assert (await asked(engine))[::2] == ["one", "two", "three", "four"]


async def test_what_cannot_be_asked_anew(driver: Driver, engine: EngineSetup) -> None:
    client = await three_turns(driver, engine)
    error = await fails(client, "ctx/chat", **chat("x", "t9", conversationId="c", replaces="t7"))
    assert (error.data["code"], error.data["turnId"]) == ("unknown_turn", "t7")
    error = await fails(client, "ctx/chat", turnId="t9", conversationId="c")
    assert (error.code, error.message.partition(":")[0]) == (-32602, "text")
    assert len(await history(client)) == 3


# -- forking, naming, deleting -----------------------------------------------------------------------------------------


async def test_a_fork_goes_its_own_way(driver: Driver, engine: EngineSetup) -> None:
    client = await three_turns(driver, engine)
    fork = await client.request("ctx/chat/fork", {"conversationId": "c", "turnId": "t2"})
    assert fork["turns"] == 2
    await ask(client, engine, "aside", "t4", conversationId=fork["conversationId"])
    assert (await asked(engine))[::2] == ["one", "two", "aside"]
    assert await history(client) == [("t1", "one"), ("t2", "two"), ("t3", "three")]
    whole = await client.request("ctx/chat/fork", {"conversationId": "c"})
    assert await history(client, whole["conversationId"]) == await history(client)


async def test_the_list_says_what_is_there(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    assert await listed(client) == {}
    await ask(client, engine, "What\n  is   this? " * 20, "t1", conversationId="long")
    await ask(client, engine, "short", "t2", conversationId="short")
    conversations = await listed(client)
    assert list(conversations) == ["short", "long"], "what last changed comes first"
    assert conversations["short"]["title"] == "short"
    title = conversations["long"]["title"]
    assert title.startswith("What is this? What is")
    assert title.endswith("…")
    assert len(title) <= 60
    renamed = await client.request("ctx/chat/rename", {"conversationId": "long", "title": " A  name "})
    assert (renamed["title"], renamed["turns"]) == ("A name", 1)
    assert (await client.request("ctx/chat/history", {"conversationId": "long"}))["conversation"] == renamed
    assert list(await listed(client)) == ["long", "short"]


async def test_a_name_survives_the_turn_it_was_given_in(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    await ask(client, engine, "one", "t1")
    await engine.state(answer=WORDS, stall_after=3)
    msg_id = client.post("ctx/chat", chat("two", "t2", conversationId="c"))
    await client.wait_notification("ctx/chat/delta", lambda delta: delta["turnId"] == "t2")
    await client.request("ctx/chat/rename", {"conversationId": "c", "title": "named"})
    await engine.state(stall_after=None)
    await client.result(msg_id)
    assert {**(await listed(client))["c"], "updated": ""} == {
        "conversationId": "c",
        "title": "named",
        "turns": 2,
        "updated": "",
    }


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("conversation", ["c", "default"])
async def test_a_deleted_conversation_stays_deleted(
    driver: Driver, engine: EngineSetup, conversation: str, earlier: int
) -> None:
    """Also while a turn runs in it, which is answered all the same."""
    client = await driver.start_ready()
    for number in range(earlier):
        await ask(client, engine, "before", f"b{number}", conversationId=conversation)
    await engine.state(answer=WORDS, stall_after=3)
    msg_id = client.post("ctx/chat", chat("two", "t2", conversationId=conversation))
    await client.wait_notification("ctx/chat/delta", lambda delta: delta["turnId"] == "t2")
    await client.command("ctx.clear", scope="conversation", conversationId=conversation)
    await engine.state(stall_after=None)
    assert (await client.result(msg_id))["text"] == "".join(WORDS)
    assert await listed(client) == {}
    await ask(client, engine, "after", "t3", conversationId=conversation)
    assert await asked(engine) == ["after"]
    deleted = await client.request("ctx/chat/delete", {"conversationId": conversation})
    assert deleted["turns"] == 1
    assert await listed(client) == {}
    assert files(driver) == []


@pytest.mark.parametrize("method", ["history", "fork", "delete", "rename"])
async def test_unknown_conversations_are_named(driver: Driver, engine: EngineSetup, method: str) -> None:
    client = await three_turns(driver, engine)
    error = await fails(client, f"ctx/chat/{method}", conversationId="nobody", title="x")
    assert error.code == -32803
    assert error.data == {"code": "unknown_conversation", "conversationId": "nobody"}
    assert (await fails(client, "ctx/chat/fork", conversationId="c", turnId="t9")).data["code"] == "unknown_turn"
    assert (await fails(client, "ctx/chat/rename", conversationId="c", title=" ")).code == -32602


# -- from session to session -------------------------------------------------------------------------------------------


async def test_conversations_outlive_the_server(driver: Driver, engine: EngineSetup) -> None:
    client = await three_turns(driver, engine)
    await ask(client, engine, "not kept", "t9", conversationId="default")
    kept = await client.request("ctx/chat/history", {"conversationId": "c"})
    await client.close()
    client = await driver.start_ready()
    assert list(await listed(client)) == ["c"], "the default conversation ends with its server"
    assert await client.request("ctx/chat/history", {"conversationId": "c"}) == kept
    await ask(client, engine, "four", "t4")
    assert (await asked(engine))[::2] == ["one", "two", "three", "four"]


async def test_files_are_the_users_alone(driver: Driver, engine: EngineSetup) -> None:
    await three_turns(driver, engine)
    (path,) = files(driver)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("id", ["../../etc/passwd", "a" * 5000, "", "\ud83d", "nul\0", "CON", "é/ü"])
async def test_any_text_is_an_id(driver: Driver, engine: EngineSetup, id: str) -> None:
    client = await driver.start_ready()
    await ask(client, engine, "one", "t1", conversationId=id)
    assert await history(client, id) == [("t1", "one")]
    (path,) = files(driver)
    assert path.parent.name == "conversations"
    assert list(await listed(client)) == [id]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"version": 1}', b'{"version": 1, "turns": [{}]}', b"[" * 100_000]
)
async def test_a_broken_file_is_set_aside(driver: Driver, engine: EngineSetup, content: bytes) -> None:
    client = await three_turns(driver, engine)
    (path,) = files(driver)
    path.write_bytes(content)
    assert await listed(client) == {}
    warning = await client.wait_notification("window/logMessage", lambda log: "can't be read" in log["message"])
    (aside,) = files(driver, "*.broken-*")
    assert warning["type"] == 2
    assert str(aside) in warning["message"]
    assert aside.read_bytes() == content
    await ask(client, engine, "anew", "t1")
    assert await history(client) == [("t1", "anew")]


async def test_a_newer_file_is_left_alone(driver: Driver, engine: EngineSetup) -> None:
    client = await three_turns(driver, engine)
    (path,) = files(driver)
    path.write_text(json.dumps({"version": 99, "thread": []}))
    assert await listed(client) == {}
    for method, params in (("ctx/chat/history", {}), ("ctx/chat", chat("x", "t5"))):
        error = await fails(client, method, **{**params, "conversationId": "c"})
        assert error.data["code"] == "unreadable_conversation"
        assert "newer" in error.message
    assert json.loads(path.read_text())["version"] == 99


async def test_what_cannot_be_written_lives_as_long_as_the_server(
    driver: Driver, engine: EngineSetup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "no-folder").write_text("a file")
    monkeypatch.setenv("CTX_LSP_STATE_DIR", str(tmp_path / "no-folder" / "state"))
    client = await three_turns(driver, engine)
    assert (await asked(engine))[::2] == ["one", "two", "three"]
    assert len(await history(client)) == 3
    assert list(await listed(client)) == ["c"]
    warnings = [log for log in client.notifications("window/logMessage") if "not kept" in log["message"]]
    assert len(warnings) == 1


# -- two servers on one workspace --------------------------------------------------------------------------------------


async def test_two_servers_go_on_with_each_others_conversations(driver: Driver, engine: EngineSetup) -> None:
    one = await driver.start_ready()
    two = await driver.start_ready()
    await ask(one, engine, "one", "t1")
    await ask(two, engine, "two", "t2")
    await ask(one, engine, "three", "t3")
    assert (await asked(engine))[::2] == ["one", "two", "three"]
    await ask(two, engine, "else", "t4", conversationId="d")
    assert list(await listed(one)) == list(await listed(two)) == ["d", "c"]
    await one.request("ctx/chat/delete", {"conversationId": "c"})
    assert list(await listed(two)) == ["d"]


async def test_turns_of_two_servers_wait_for_each_other(driver: Driver, engine: EngineSetup) -> None:
    one, two = await driver.start_ready(), await ready(await driver.initialize(await driver.start_process()))
    await engine.state(answer=WORDS, stall_after=3)
    first = one.post("ctx/chat", chat("first", "t1", conversationId="c"))
    await one.wait_notification("ctx/chat/delta")
    second, third = (two.post("ctx/chat", chat(text, text, conversationId="c")) for text in ("second", "third"))
    two.cancel(second)
    with pytest.raises(RpcError):
        await two.result(second)
    await engine.state(stall_after=None)
    await asyncio.gather(one.result(first), two.result(third))
    assert await history(one) == [("t1", "first"), ("third", "third")]


# -- what does not fit -------------------------------------------------------------------------------------------------


async def test_the_oldest_turns_give_way(driver: Driver, engine: EngineSetup) -> None:
    """The fake's window has 1,000 words, of which 125 are kept for the answer."""
    client = await driver.start_ready()
    for number in range(6):
        result = await ask(client, engine, f"{number} " * 200, f"t{number}")
        assert result["leftOutTurns"] == max(0, number - 3), number
        assert [text.split()[0] for text in (await asked(engine))[::2]] == [
            str(kept) for kept in range(max(0, number - 3), number + 1)
        ]
    assert len(await history(client)) == 6
    plan = await client.request("ctx/plan", {"text": "x", "conversationId": "c"})
    assert plan["tokens"] <= 875
    error = await fails(client, "ctx/chat", **chat("x " * 1001, "t9", conversationId="c"))
    assert error.data["code"] == "context_full"


async def test_a_short_answer_needs_less_room(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    await ask(client, engine, "one " * 500, "t1")
    assert (await ask(client, engine, "two " * 450, "t2"))["leftOutTurns"] == 1
    fields = {"replaces": "t2", "sampling": {"maxTokens": 10}}
    assert (await ask(client, engine, None, "t3", **fields))["leftOutTurns"] == 0


async def test_a_turn_keeps_what_it_took(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(thoughts=["hm"], answer=["```py\n", "x = 1\n", "```"])
    client = await driver.start_ready()
    result = await client.request("ctx/chat", chat("one", conversationId="c"))
    (turn,) = (await client.request("ctx/chat/history", {"conversationId": "c"}))["turns"]
    same = ("turnId", "reasoning", "codeBlocks", "stopReason", "usage")
    assert {name: turn[name] for name in same} == {name: result[name] for name in same}
    assert (turn["question"], turn["answer"]) == ("one", result["text"])
    assert turn["asked"].endswith("+00:00")
    (block,) = turn["codeBlocks"]
    assert (block["language"], block["text"]) == ("py", "x = 1\n")
