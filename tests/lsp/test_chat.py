"""A question from the wire to the engine and back: deltas, results, history, cancellation, failures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ctx_lsp.chat.delta_stream import DeltaStream
from ctx_lsp.protocol import ChatDelta
from tests.lsp.driver import Driver, EngineSetup, chat, edit, eventually
from tests.lsp.wire_client import RpcError, WireClient

WORDS = [f"word{number} " for number in range(200)]


def streamed(client: WireClient, turn: str = "t1", kind: str = "answer") -> str:
    deltas = [delta for delta in client.notifications("ctx/chat/delta") if delta["turnId"] == turn]
    assert [delta["seq"] for delta in deltas] == list(range(len(deltas)))
    return "".join(delta["text"] for delta in deltas if delta["kind"] == kind)


async def test_deltas_joined_are_the_answer_and_come_before_it(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=WORDS)
    client = await driver.start_ready()
    driver.open(client, "a.txt", "some text")
    result = await client.request("ctx/chat", chat(conversationId="c"))
    assert result["text"] == "".join(WORDS) == streamed(client)
    methods = [message.get("method", "answer") for message in client.received]
    assert methods.index("ctx/chat/delta") < len(methods) - 1 - methods[::-1].index("answer")
    assert "ctx/chat/delta" not in methods[len(methods) - methods[::-1].index("answer") :]
    assert (result["turnId"], result["conversationId"], result["stopReason"]) == ("t1", "c", "stop")
    assert result["usage"]["completionTokens"] == len(WORDS)
    assert [chunk["name"] for chunk in result["chunks"]] == ["a.txt"]
    assert result["output"] in [chunk["hash"] for chunk in (await client.request("ctx/chunks", {}))["chunks"]]


async def test_fast_pieces_are_gathered() -> None:
    sent: list[ChatDelta] = []
    stream = DeltaStream("t", sent.append)
    for number in range(1000):
        stream.put(str(number % 10))
    assert len(sent) == 1, "the first piece goes out at once"
    await asyncio.sleep(0.1)
    assert len(sent) == 2, "the rest waits for the next beat, and goes out without a further piece"
    stream.put("x")
    stream.flush()
    stream.close()
    assert "".join(delta.text for delta in sent) == "0123456789" * 100 + "x"


async def test_gathering_never_mixes_kinds() -> None:
    sent: list[ChatDelta] = []
    stream = DeltaStream("t", sent.append)
    for number in range(100):
        stream.put(str(number % 10), "reasoning")
    for _ in range(100):
        stream.put("x")
    stream.flush()
    stream.close()
    assert [delta.seq for delta in sent] == list(range(len(sent)))
    texts = {kind: "".join(delta.text for delta in sent if delta.kind == kind) for kind in ("reasoning", "answer")}
    assert texts == {"reasoning": "0123456789" * 10, "answer": "x" * 100}
    assert [delta.kind for delta in sent] == sorted((delta.kind for delta in sent), reverse=True)
    assert len(sent) == 3, "the first piece, what has gathered of its kind, and what has gathered of the other"


async def test_thoughts_come_apart_from_the_answer_and_are_not_remembered(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(thoughts=["so ", "I ", "think"], answer=WORDS)
    client = await driver.start_ready()
    result = await client.request("ctx/chat", chat("one", "t1"))
    assert (result["text"], result["reasoning"]) == ("".join(WORDS), "so I think")
    assert (result["usage"]["reasoningTokens"], result["usage"]["completionTokens"]) == (3, 3 + len(WORDS))
    assert (streamed(client, kind="reasoning"), streamed(client)) == (result["reasoning"], result["text"])
    await client.request("ctx/chat", chat("two", "t2"))
    *_, record = (await engine.state())["chats"]
    assert [message["content"] for message in record["body"]["messages"]] == ["one", "".join(WORDS), "two"]
    outputs = [text for source, text in (await engine.texts()).items() if source.startswith("answer")]
    assert set(outputs) == {"".join(WORDS)}


async def test_a_model_that_does_not_think_has_no_thoughts(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    result = await client.request("ctx/chat", chat())
    assert (result["reasoning"], result["usage"]["reasoningTokens"]) == ("", 0)
    assert {delta["kind"] for delta in client.notifications("ctx/chat/delta")} == {"answer"}


@pytest.mark.parametrize(
    ("options", "fields", "expected"),
    [
        ({}, {}, {"fidelity": "auto"}),
        ({"fidelity": "instant", "latencyBudgetMs": 50}, {}, {"fidelity": "instant", "latency_budget_ms": 50.0}),
        ({"fidelity": "instant"}, {"fidelity": "exact"}, {"fidelity": "exact"}),
        ({"latencyBudgetMs": 50}, {"latencyBudgetMs": 0}, {"fidelity": "auto", "latency_budget_ms": 0.0}),
    ],
)
async def test_a_question_says_how_exact_it_is_or_the_options_do(
    driver: Driver, engine: EngineSetup, options: dict[str, Any], fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    client = await driver.start_ready(**options)
    await client.request("ctx/chat", chat(**fields))
    await client.request("ctx/plan", {"text": "x", **fields})
    state = await engine.state()
    for body in (state["chats"][-1]["body"], state["plans"][-1]):
        assert {name: body[name] for name in ("fidelity", "latency_budget_ms") if name in body} == expected


async def test_history_belongs_to_the_conversation(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    await client.request("ctx/chat", chat("one", "t1", conversationId="a"))
    await client.request("ctx/chat", chat("two", "t2", conversationId="a"))
    await client.request("ctx/chat", chat("three", "t3", conversationId="b"))
    asked = [
        [message["content"] for message in record["body"]["messages"]] for record in (await engine.state())["chats"]
    ]
    assert asked == [["one"], ["one", "A plain answer.", "two"], ["three"]]


async def test_turns_of_one_conversation_wait_for_each_other(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    first, second = (client.post("ctx/chat", chat(text, text)) for text in ("one", "two"))
    await asyncio.gather(client.result(first), client.result(second))
    assert [len(record["body"]["messages"]) for record in (await engine.state())["chats"]] == [1, 3]


async def test_the_question_sees_the_latest_text(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(debounceMs=60_000)
    driver.open(client, "a.txt", "old text")
    driver.change(client, "a.txt", 2, edit((0, 0), (0, 3), "new"))
    await client.request("ctx/chat", chat())
    (record,) = (await engine.state())["chats"]
    assert record["seen"] == {"a.txt": "new text"}


async def test_sampling_and_fidelity_reach_the_engine(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    sampling = {"temperature": 0.5, "topK": 4, "maxTokens": 7, "stop": ["\n"], "seed": 3}
    await client.request("ctx/chat", chat(sampling=sampling, fidelity="instant"))
    body = (await engine.state())["chats"][0]["body"]
    assert body["fidelity"] == "instant"
    assert {name: body[name] for name in ("temperature", "top_k", "max_tokens", "stop", "seed")} == {
        "temperature": 0.5,
        "top_k": 4,
        "max_tokens": 7,
        "stop": ["\n"],
        "seed": 3,
    }


async def test_unusual_characters_survive(driver: Driver, engine: EngineSetup) -> None:
    odd = "a\u2028b\x85c\x0cd 😀 é\r\n"
    engine.behave(answer=[odd, odd])
    client = await driver.start_ready()
    driver.open(client, "odd.txt", odd)
    result = await client.request("ctx/chat", chat(odd))
    assert result["text"] == odd + odd == streamed(client)
    (record,) = (await engine.state())["chats"]
    assert record["seen"] == {"odd.txt": odd}
    assert record["body"]["messages"][0]["content"] == odd


async def test_half_a_surrogate_pair_does_no_harm(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "half.txt", "x")
    driver.change(client, "half.txt", 2, {"text": "half \ud83d here"})
    await client.request("ctx/chat", chat("also \ude00"))
    (record,) = (await engine.state())["chats"]
    assert record["seen"] == {"half.txt": "half \ufffd here"}
    assert record["body"]["messages"][0]["content"] == "also \ufffd"


# -- cancellation ------------------------------------------------------------------------------------------------------


async def test_cancelling_stops_the_engine_and_answers_once(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=WORDS, stall_after=20)
    client = await driver.start_ready()
    msg_id = client.post("ctx/chat", chat())
    await client.wait_notification("ctx/chat/delta")
    client.cancel(msg_id)
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert caught.value.code == -32800
    chats = await eventually(chats_of(engine), lambda chats: chats[0]["ended"] is not None)
    assert chats[0]["ended"] == "cancelled"
    assert chats[0]["generated"] <= 20  # fewer where the cancel was faster than the words
    await engine.state(stall_after=None, answer=["fine"])
    await client.request("ctx/chat", chat("again", "t2"))
    assert len(client.answers(msg_id)) == 1
    messages = (await engine.state())["chats"][1]["body"]["messages"]
    assert [message["content"] for message in messages] == ["again"], "a cancelled turn leaves no trace"


async def test_cancelling_while_the_engine_loads(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    msg_id = client.post("ctx/chat", chat())
    client.cancel(msg_id)
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert caught.value.code == -32800
    await engine.state(load_seconds=0)
    assert (await client.request("ctx/chat", chat("now", "t2")))["stopReason"] == "stop"


async def test_a_turn_waiting_for_another_can_be_cancelled(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=WORDS, stall_after=1)
    client = await driver.start_ready()
    first = client.post("ctx/chat", chat("one", "t1"))
    await client.wait_notification("ctx/chat/delta")
    second = client.post("ctx/chat", chat("two", "t2"))
    client.cancel(second)
    with pytest.raises(RpcError):
        await client.result(second)
    await engine.state(stall_after=None)
    assert (await client.result(first))["stopReason"] == "stop"
    assert len((await engine.state())["chats"]) == 1


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_an_engine_that_dies_in_an_answer_is_replaced(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=WORDS, die_after=5)
    client = await driver.start_ready()
    driver.open(client, "a.txt", "some text")
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat())
    assert (caught.value.code, caught.value.data["code"]) == (-32803, "engine_lost")
    assert "exit code 9" in caught.value.message
    assert "next request" in caught.value.message
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "stopped")
    engine.behave(answer=["back"])
    result = await client.request("ctx/chat", chat("again", "t2"))
    assert result["text"] == "back"
    (record,) = (await engine.state())["chats"]
    assert record["seen"] == {"a.txt": "some text"}
    assert [message["content"] for message in record["body"]["messages"]] == ["again"]


async def test_an_error_in_the_middle_of_an_answer_is_the_answer(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=WORDS, error_after=3)
    client = await driver.start_ready()
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat())
    assert (caught.value.code, caught.value.data) == (-32803, {"code": "out_of_memory"})
    await engine.state(error_after=None)
    assert (await client.request("ctx/chat", chat("again", "t2")))["stopReason"] == "stop"


async def test_a_question_that_does_not_fit_is_a_clear_error(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "short")
    await engine.wait_texts(lambda texts: "a.txt" in texts)
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat("word " * 1001))
    assert caught.value.data == {"code": "context_full", "needed": 1002, "limit": 1000}


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"text": "x"}, "turnId: is missing"),
        (chat(sampling={"topK": "many"}), 'sampling.topK: expected an integer, got "many"'),
        (chat(sampling={"topP": 7}), "sampling: top_p must be above 0 and at most 1"),
        (chat(fidelity="perfect"), 'fidelity: expected one of "exact", "auto", "instant", got "perfect"'),
        (chat(latencyBudgetMs=-1), "latencyBudgetMs: expected 0 or more"),
        ([1], "params: expected an object, got an array"),
    ],
)
async def test_bad_params_are_named(driver: Driver, params: Any, problem: str) -> None:
    client = await driver.start()
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", params)
    assert (caught.value.code, caught.value.message) == (-32602, problem)


async def test_a_running_turn_keeps_its_name(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=WORDS, stall_after=1)
    client = await driver.start_ready()
    first = client.post("ctx/chat", chat("one", "same"))
    await client.wait_notification("ctx/chat/delta")
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat("two", "same", conversationId="other"))
    assert caught.value.code == -32602
    await engine.state(stall_after=None)
    await client.result(first)
    await client.request("ctx/chat", chat("three", "same"))


async def test_a_plan_sees_history_and_latest_text(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(debounceMs=60_000)
    driver.open(client, "a.txt", "one two three")
    await client.request("ctx/chat", chat("four five"))
    plan = await client.request("ctx/plan", {"text": "six"})
    assert plan["tokens"] == 3 + 2 + 3 + 1
    assert plan["limit"] == 1000
    assert (plan["mode"], plan["timeToFirstToken"]) == ("exact", 0.25)
    assert (await client.request("ctx/plan", {"text": "six", "conversationId": "new"}))["tokens"] == 4


def chats_of(engine: EngineSetup) -> Any:
    async def look() -> list[dict[str, Any]]:
        chats: list[dict[str, Any]] = (await engine.state())["chats"]
        return chats

    return look
