"""Sessions over a server of OpenAI's API: chunks are kept here and warmed there, answers come as from an engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lsp.driver import Driver, EngineSetup, chat, eventually, ready
from tests.lsp.fake_openai import FakeOpenAI, serving
from tests.lsp.wire_client import LocalClient, RpcError


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with serving(FakeOpenAI()) as fake:
        yield fake


async def start(driver: Driver, fake: FakeOpenAI, **options: Any) -> LocalClient:
    engine = {"url": fake.url} | ({} if fake.token is None else {"token": fake.token})
    return await ready(await driver.start(engine=engine, files={"maxTokens": 0}, **options))


async def warmed(fake: FakeOpenAI, count: int) -> None:
    """Waits until so many prompts were warmed to their ends."""

    async def ends() -> list[str | None]:
        return [end for body, end in zip(fake.requests, fake.ended, strict=False) if body.get("max_tokens") == 1]

    await eventually(ends, lambda ends: ends.count("stop") >= count and None not in ends)


async def rested(client: LocalClient) -> dict[str, Any]:
    """The chunks, when everything that can be is warm. The plan brings what was opened to the engine."""
    await client.request("ctx/plan", {"text": "Well?"})
    chunks: dict[str, Any] = await eventually(
        lambda: client.request("ctx/chunks", {}),
        lambda result: all(chunk["warmTokens"] == chunk["tokens"] for chunk in result["chunks"] if chunk["active"]),
    )
    return chunks


def names(client_chunks: dict[str, Any]) -> list[str]:
    return [chunk["name"] for chunk in client_chunks["chunks"] if chunk["kind"] == "file"]


def system(body: dict[str, Any]) -> str:
    assert body["messages"][0]["role"] == "system"
    content: str = body["messages"][0]["content"]
    return content


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "limit", "estimated"),
    [("vllm", 1000, False), ("llamacpp", 1000, False), ("llama-cpp-python", 8192, True), ("bare", 8192, True)],
)
async def test_each_dialect_is_understood(
    driver: Driver, fake: FakeOpenAI, dialect: Any, limit: int, estimated: bool
) -> None:
    fake.dialect = dialect
    client = await start(driver, fake)
    driver.open(client, "a.py", "one two three")
    status = await client.request("ctx/status", {})
    assert (status["model"], status["device"]) == ("fake", fake.url)
    chunks = await rested(client)
    assert (chunks["limit"], chunks["estimated"]) == (limit, estimated)
    result = await client.request("ctx/chat", chat("What now?"))
    assert (result["text"], result["fidelity"]) == ("A plain answer.", "exact")
    assert result["usage"]["reusedTokens"] + result["usage"]["prefilledTokens"] == result["usage"]["promptTokens"]
    assert result["usage"]["reusedTokens"] > 0


async def test_the_url_may_be_that_of_an_openai_client(driver: Driver, fake: FakeOpenAI) -> None:
    client = await ready(await driver.start(engine={"url": f"{fake.url}/v1/"}, maxContext=500))
    assert (await client.request("ctx/chunks", {}))["limit"] == 500


async def test_a_server_that_loads_is_waited_for(driver: Driver, fake: FakeOpenAI) -> None:
    fake.loading = True
    client = await driver.start(engine={"url": fake.url})
    await client.wait_notification("ctx/status/didChange", lambda status: status["message"] == "Loading model")
    fake.loading = False
    await ready(client)


async def test_a_model_can_be_chosen(driver: Driver, fake: FakeOpenAI) -> None:
    client = await driver.start(engine={"url": fake.url}, model="other")
    with pytest.raises(RpcError, match="serves fake, not other") as caught:
        await client.request("ctx/chat", chat())
    assert caught.value.data == {"code": "model_not_found", "served": ["fake"]}
    assert (await client.request("ctx/status", {}))["state"] == "failed"


# -- warm --------------------------------------------------------------------------------------------------------------


async def test_files_are_warmed_before_the_question(driver: Driver, fake: FakeOpenAI) -> None:
    client = await start(driver, fake, instructions="Be brief.")
    driver.open(client, "a.py", "alpha " * 50)
    driver.open(client, "b.py", "beta " * 50)
    chunks = await rested(client)
    assert [(chunk["tokens"], chunk["fidelity"]) for chunk in chunks["chunks"]] == [(58, "exact"), (58, "exact")]
    (warming,) = fake.warmings[-1:]
    assert system(warming).startswith("Be brief.\nFile: a.py\n```python\nalpha ")
    plan = await client.request("ctx/plan", {"text": "And now?"})
    assert (plan["prefill"] <= 2 + 5, plan["mode"]) == (True, "exact")
    result = await client.request("ctx/chat", chat("And now?"))
    assert system(fake.questions[0]) == system(warming)
    assert result["usage"]["prefilledTokens"] == 2, "the question's two words"
    assert [(chunk["reused"], chunk["prefill"]) for chunk in result["chunks"]] == [(58, 0), (58, 0)]
    assert plan["estimated"] is False


async def test_what_was_edited_goes_last_and_the_rest_stays_warm(driver: Driver, fake: FakeOpenAI) -> None:
    client = await start(driver, fake)
    for name in ("a.py", "b.py", "c.py"):
        driver.open(client, name, f"{name} " * 30)
    await rested(client)
    driver.change(client, "c.py", 2, {"text": "c.py " * 20 + "new " * 10})
    result = await client.request("ctx/chat", chat())
    assert [chunk["prefill"] for chunk in result["chunks"][:2]] == [0, 0]
    assert 0 < result["chunks"][2]["reused"] < result["chunks"][2]["tokens"]
    driver.change(client, "a.py", 2, {"text": "changed " * 30})
    assert names(await rested(client)) == ["b.py", "c.py", "a.py"]
    await client.command("ctx.pin", refs=["b.py"])
    driver.change(client, "b.py", 2, {"text": "changed too " * 20})
    await client.request("ctx/chat", chat(turn="t2"))
    assert names(await client.request("ctx/chunks", {})) == ["b.py", "c.py", "a.py"]


async def test_a_fixed_order_stays(driver: Driver, fake: FakeOpenAI) -> None:
    client = await start(driver, fake, order="fixed")
    for name in ("a.py", "b.py"):
        driver.open(client, name, f"{name} " * 30)
    driver.change(client, "a.py", 2, {"text": "changed " * 30})
    await client.request("ctx/chat", chat())
    assert names(await client.request("ctx/chunks", {})) == ["a.py", "b.py"]


async def test_a_question_goes_before_warming_which_goes_on_behind_it(driver: Driver, fake: FakeOpenAI) -> None:
    fake.stall_prefill = True
    client = await start(driver, fake)
    driver.open(client, "a.py", "alpha " * 50)
    await eventually(lambda: seen(fake), lambda count: count == 1)
    msg_id = client.post("ctx/chat", chat())
    await eventually(lambda: seen(fake), lambda count: count == 2)
    assert fake.ended[0] == "cancelled"
    client.cancel(msg_id)
    with pytest.raises(RpcError):
        await client.result(msg_id)
    fake.stall_prefill = False
    await warmed(fake, 1)
    await rested(client)


async def seen(fake: FakeOpenAI) -> int:
    return len(fake.requests)


async def test_chunks_can_be_switched_composed_tagged_and_deleted(driver: Driver, fake: FakeOpenAI) -> None:
    client = await start(driver, fake)
    for name in ("a.py", "b.py"):
        driver.open(client, name, f"{name} " * 30)
    await rested(client)
    await client.command("ctx.deactivate", refs=["a.py"])
    await client.command("ctx.tag", refs=["b.py"], tags=["mine"])
    composed = await client.command("ctx.compose", refs=["a.py", "b.py"], name="both")
    assert (composed["kind"], composed["tokens"], len(composed["parts"])) == ("composition", 76, 2)
    result = await client.request("ctx/chat", chat())
    assert sorted(chunk["name"] for chunk in result["chunks"]) == ["a.py", "b.py"]
    await client.command("ctx.delete", refs=["both"])
    fake.answer = ["Another ", "answer."]
    await client.request("ctx/chat", chat(turn="t2"))
    assert "a.py a.py" not in system(fake.questions[-1])
    output = (await client.request("ctx/chunks", {}))["chunks"][-1]
    assert (output["kind"], output["active"], output["name"]) == ("output", False, "answer 2")
    await client.command("ctx.clear", scope="outputs")
    assert names(await client.request("ctx/chunks", {})) == ["a.py", "b.py"]


async def test_a_model_without_system_messages_gets_the_files_in_the_first_question(
    driver: Driver, fake: FakeOpenAI
) -> None:
    fake.has_system = False
    client = await start(driver, fake)
    driver.open(client, "a.py", "alpha " * 50)
    await client.request("ctx/chat", chat("What?"))
    await client.request("ctx/chat", chat("And?", turn="t2"))
    messages = fake.questions[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"].endswith("End of file: a.py\nWhat?")


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_thoughts_and_history(driver: Driver, fake: FakeOpenAI) -> None:
    fake.thoughts = ["Let ", "me ", "see."]
    client = await start(driver, fake)
    result = await client.request("ctx/chat", chat("First"))
    assert (result["reasoning"], result["text"]) == ("Let me see.", "A plain answer.")
    assert (result["usage"]["completionTokens"], result["usage"]["reasoningTokens"]) == (6, 3)
    await client.request("ctx/chat", chat("Second", "t2", sampling={"maxTokens": 2, "repetitionPenalty": 1.1}))
    body = fake.questions[-1]
    assert [message["content"] for message in body["messages"][1:]] == ["First", "A plain answer.", "Second"]
    assert (body["temperature"], body["max_tokens"], body["repeat_penalty"]) == (0, 2, 1.1)


async def test_what_the_server_does_not_tell_is_guessed(driver: Driver, fake: FakeOpenAI) -> None:
    fake.tells_cache = False
    client = await start(driver, fake)
    driver.open(client, "a.py", "alpha " * 300)
    await rested(client)
    result = await client.request("ctx/chat", chat())
    assert result["usage"]["reusedTokens"] >= 300
    assert result["chunks"][0]["prefill"] == 0


async def test_cancelling_closes_the_connection(driver: Driver, fake: FakeOpenAI) -> None:
    fake.stall_after = 1
    client = await start(driver, fake)
    msg_id = client.post("ctx/chat", chat())
    await client.wait_notification("ctx/chat/delta")
    client.cancel(msg_id)
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert caught.value.code == -32800

    async def end() -> str | None:
        return fake.ended[-1]

    assert await eventually(end, lambda end: end is not None) == "cancelled"
    fake.stall_after = None
    await client.request("ctx/chat", chat("again", "t2"))
    assert [message["content"] for message in fake.questions[-1]["messages"][1:]] == ["again"]


async def test_where_requests_break_answers_off_questions_wait(driver: Driver, fake: FakeOpenAI) -> None:
    fake.dialect, fake.stall_after = "llama-cpp-python", 1
    client = await start(driver, fake)
    first = client.post("ctx/chat", chat("one", "t1", conversationId="a"))
    await client.wait_notification("ctx/chat/delta")
    second = client.post("ctx/chat", chat("two", "t2", conversationId="b"))
    driver.open(client, "a.py", "alpha " * 50)
    await client.request("ctx/chunks", {})
    assert len(fake.requests) == 1
    fake.stall_after = None
    assert (await client.result(first))["stopReason"] == "stop"
    assert (await client.result(second))["stopReason"] == "stop"
    await rested(client)


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_a_wrong_token_is_told(driver: Driver, fake: FakeOpenAI) -> None:
    fake.token = "right"
    client = await ready(await driver.start(engine={"url": fake.url, "token": "wrong"}))
    with pytest.raises(RpcError, match=r"wants another token \(engine.token\): Invalid API Key") as caught:
        await client.request("ctx/chat", chat())
    assert caught.value.data["code"] == "unauthorized"


async def test_the_token_is_sent(driver: Driver, fake: FakeOpenAI) -> None:
    fake.token = "right"
    client = await start(driver, fake)
    assert (await client.request("ctx/chat", chat()))["text"] == "A plain answer."


@pytest.mark.parametrize("dialect", ["vllm", "bare"])
async def test_a_prompt_that_is_too_long(driver: Driver, fake: FakeOpenAI, dialect: Any) -> None:
    fake.dialect, fake.limit = dialect, 100
    client = await start(driver, fake)
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat("word " * 200))
    assert caught.value.data["code"] == "context_full"
    assert (caught.value.data["limit"], caught.value.data["needed"] > 200) == (100, True)


async def test_a_file_that_is_too_long_is_named(driver: Driver, fake: FakeOpenAI) -> None:
    fake.limit = 100
    client = await start(driver, fake)
    driver.open(client, "long.py", "word " * 200)
    log = await client.wait_notification("window/logMessage", lambda log: "long.py" in log["message"])
    assert "208 tokens" in log["message"]


async def test_nobody_answers(driver: Driver, fake: FakeOpenAI) -> None:
    client = await driver.start(engine={"url": "http://127.0.0.1:9"})
    with pytest.raises(RpcError, match=r"^can't reach http://127.0.0.1:9 \(engine.url\)") as caught:
        await client.request("ctx/chat", chat())
    assert caught.value.data["code"] == "engine_unreachable"


async def test_an_answer_breaks_off(driver: Driver, fake: FakeOpenAI) -> None:
    fake.break_after = 2
    client = await start(driver, fake)
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat())
    assert caught.value.data["code"] == "engine_lost"
    fake.break_after = None
    assert (await client.request("ctx/chat", chat("again", "t2")))["text"] == "A plain answer."


async def test_a_server_that_comes_back_gets_the_files_again(driver: Driver) -> None:
    before = FakeOpenAI()
    with serving(before):
        client = await start(driver, before)
        driver.open(client, "a.py", "alpha " * 50)
        await rested(client)
    with pytest.raises(RpcError):
        await client.request("ctx/chat", chat())
    after = FakeOpenAI()
    with serving(after, port=int(before.url.rpartition(":")[2])):
        await client.request("ctx/chat", chat("again", "t2"))
        assert "alpha alpha" in system(after.questions[-1])


async def test_a_url_that_can_not_be_meant(driver: Driver) -> None:
    with pytest.raises(RpcError, match=r"engine.url: expected http"):
        await driver.start(engine={"url": "localhost:8000"})


async def test_from_one_engine_to_another_and_back_nothing_is_lost(
    driver: Driver, engine: EngineSetup, fake: FakeOpenAI
) -> None:
    client = await driver.start_ready(files={"maxTokens": 0})
    driver.open(client, "a.py", "alpha beta")
    await client.command("ctx.tag", refs=["a.py"], tags=["mine"])
    client.notify("workspace/didChangeConfiguration", {"settings": {"ctx": {"engine": {"url": fake.url}}}})
    await client.wait_notification("ctx/status/didChange", lambda s: s["model"] == "fake" and s["state"] == "ready")
    result = await client.request("ctx/chat", chat())
    assert "alpha beta" in system(fake.questions[-1])
    assert (await client.request("ctx/chunks", {}))["chunks"][0]["tags"] == ["mine"]
    start = len(client.received)
    client.notify("workspace/didChangeConfiguration", {"settings": {"ctx": {}}})
    await client.wait_for(lambda message: message.get("params", {}).get("state") == "ready", start)
    assert (await client.request("ctx/chat", chat(turn="t2")))["text"] == result["text"]
    assert (await engine.state())["chats"][-1]["seen"] == {"a.py": "alpha beta"}
