"""Whole sessions with a real engine process on a tiny random model: what the fake can't prove."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.serve import runtime_file
from tests.lsp.driver import Driver, EngineSetup, chat, edit, eventually, kill_engines, ready
from tests.lsp.wire_client import ProcessClient, RpcError, WireClient
from tests.scripted_models import ANSWER, THOUGHT, make_thinking_model
from tests.tiny_models import tiny_model

DECODED = "tokens_decoded_total"


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runtime folder of the engine that these tests share: it takes seconds to start."""
    folder = tmp_path_factory.mktemp("shared") / "runtime"
    yield folder
    kill_engines(folder)


@pytest.fixture
def engine(engine: EngineSetup, shared_folder: Path) -> EngineSetup:
    """Servers find, or start, the engine that users get."""
    engine.environment.delenv("CTX_LSP_ENGINE_COMMAND")
    engine.environment.setenv("CTX_LSP_RUNTIME_DIR", str(shared_folder))
    engine.environment.setenv("HF_HUB_OFFLINE", "1")
    return replace(engine, folder=shared_folder)


@pytest.fixture
def options() -> dict[str, Any]:
    return {"model": str(tiny_model("qwen2")), "device": "cpu", "dtype": "float32", "threads": 1}


@pytest.fixture
async def client(driver: Driver, options: dict[str, Any]) -> ProcessClient:
    """A server process whose engine is ready."""
    return await ready(await driver.initialize(await driver.start_process(), **options))


async def metrics(engine: EngineSetup) -> dict[str, float]:
    info = engine.info()
    headers = {"Authorization": f"Bearer {info.token}"}
    async with httpx.AsyncClient(base_url=info.url, headers=headers, trust_env=False) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    pairs = (line.removeprefix("ctx_engine_").rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def idle(engine: EngineSetup) -> dict[str, float]:
    """The metrics, once nothing is computed any more."""
    seen: dict[str, float] = await eventually(
        lambda: metrics(engine), lambda now: now["running"] == now["queued"] == now["upkeep"] == 0
    )
    return seen


def sampling(tokens: int) -> dict[str, Any]:
    return {"maxTokens": tokens}


async def test_a_session_from_initialize_to_exit(driver: Driver, engine: EngineSetup, client: ProcessClient) -> None:
    driver.open(client, "a.py", "def one():\n    return 1\n")
    driver.open(client, "b.py", "def two():\n    return 2\n")
    await idle(engine)
    chunks = await eventually(lambda: chunks_of(client), lambda chunks: warm(chunks) == {"a.py": True, "b.py": True})
    assert [chunk["hash"] for chunk in chunks] == [
        hashlib.sha256(text.encode()).hexdigest()
        for text in ("def one():\n    return 1\n", "def two():\n    return 2\n")
    ]

    result = await client.request("ctx/chat", chat("What is one?", sampling=sampling(20)))
    assert result["stopReason"] == "length"
    assert result["usage"]["completionTokens"] == 20
    assert result["text"] == "".join(delta["text"] for delta in client.notifications("ctx/chat/delta"))
    assert {chunk["name"]: (chunk["fidelity"], chunk["prefill"]) for chunk in result["chunks"]} == {
        "a.py": ("exact", 0),
        "b.py": ("exact", 0),
    }, "what was opened was warm before the question"
    assert result["fidelity"] == "exact"
    assert result["usage"]["prefilledTokens"] + result["usage"]["reusedTokens"] == result["usage"]["promptTokens"]

    driver.change(client, "b.py", 2, edit((1, 11), (1, 12), "22"))
    again = await client.request("ctx/chat", chat("And two?", "t2", sampling=sampling(5)))
    assert {chunk["name"]: chunk["fidelity"] for chunk in again["chunks"]} == {"a.py": "exact", "b.py": "exact"}
    texts = {chunk["name"]: chunk["hash"] for chunk in again["chunks"]}
    assert texts["b.py"] == hashlib.sha256(b"def two():\n    return 22\n").hexdigest()

    driver.close(client, "a.py")
    plan = await client.request("ctx/plan", {"text": "What now?"})
    assert [chunk["name"] for chunk in plan["chunks"]] == ["b.py"]
    contexts = (await metrics(engine))["contexts"]
    assert await client.shut_down() == 0
    assert (await metrics(engine))["contexts"] == contexts - 1


async def test_answers_do_not_depend_on_how_the_context_came_about(
    driver: Driver, engine: EngineSetup, client: ProcessClient, options: dict[str, Any]
) -> None:
    """After edits, toggles and another chat, an exact answer is the one a fresh context gives."""
    driver.open(client, "a.py", "x = 1\n" * 30)
    driver.open(client, "b.py", "y = 2\n" * 30)
    await client.request("ctx/chat", chat("warm up", sampling=sampling(3)))
    driver.change(client, "a.py", 2, edit((3, 4), (3, 5), "17"))
    await client.command("ctx.deactivate", refs=["b.py"])
    await client.request("ctx/chat", chat("without b", "t2", conversationId="other", sampling=sampling(3)))
    await client.command("ctx.activate", refs=["b.py"])
    exact: dict[str, Any] = {"fidelity": "exact", "sampling": sampling(30)}
    travelled = await client.request("ctx/chat", chat("?", "t3", conversationId="new", **exact))
    assert [chunk["name"] for chunk in travelled["chunks"]] == ["b.py", "a.py"], "what was edited stands last"

    fresh = await ready(await driver.initialize(await driver.start_process(), **options))
    texts = {"b.py": "y = 2\n" * 30, "a.py": "x = 1\n" * 3 + "x = 17\n" + "x = 1\n" * 26}
    for name, text in texts.items():
        driver.open(fresh, name, text)
    straight = await fresh.request("ctx/chat", chat("?", **exact))
    assert travelled["text"] == straight["text"]
    assert [chunk["hash"] for chunk in travelled["chunks"]] == [chunk["hash"] for chunk in straight["chunks"]]


@pytest.mark.parametrize(
    ("order", "names"), [("recency", ["a.py", "c.py", "b.py"]), ("fixed", ["a.py", "b.py", "c.py"])]
)
async def test_an_edited_document_goes_to_the_end_unless_it_is_told_to_stay(
    driver: Driver, engine: EngineSetup, options: dict[str, Any], order: str, names: list[str]
) -> None:
    client = await ready(await driver.initialize(await driver.start_process(), order=order, **options))
    for name in "abc":
        driver.open(client, f"{name}.py", f"{name} = 1\n")
    await client.command("ctx.pin", refs=["a.py"])
    for name in "ab":
        driver.change(client, f"{name}.py", 2, edit((0, 4), (0, 5), "2"))
        await client.request("ctx/plan", {"text": "brings the edit"})
    await client.request("ctx/chat", chat() | {"fidelity": "exact"})  # which settles the order
    files = [chunk for chunk in await chunks_of(client) if chunk["kind"] == "file"]
    assert [chunk["name"] for chunk in files] == names
    assert [chunk["name"] for chunk in files if chunk["pinned"]] == ["a.py"]


@pytest.fixture
def own_folder(engine: EngineSetup, tmp_path: Path) -> Iterator[Path]:
    """A runtime folder for an engine that isn't shared."""
    folder = tmp_path / "own"
    engine.environment.setenv("CTX_LSP_RUNTIME_DIR", str(folder))
    yield folder
    kill_engines(folder)


@pytest.mark.usefixtures("own_folder")
async def test_thoughts_are_told_apart_from_the_answer(
    driver: Driver, engine: EngineSetup, options: dict[str, Any], tmp_path: Path
) -> None:
    options = options | {"model": str(make_thinking_model(tmp_path / "model"))}
    client = await ready(await driver.initialize(await driver.start_process(), **options))
    result = await client.request("ctx/chat", chat())
    assert (result["reasoning"], result["text"], result["stopReason"]) == (THOUGHT, ANSWER, "stop")
    assert 0 < result["usage"]["reasoningTokens"] < result["usage"]["completionTokens"]
    deltas = client.notifications("ctx/chat/delta")
    for kind, text in (("reasoning", THOUGHT), ("answer", ANSWER)):
        assert "".join(delta["text"] for delta in deltas if delta["kind"] == kind) == text
    again = await client.request("ctx/chat", chat("Sure?", "t2"))
    assert (again["reasoning"], again["text"]) == (THOUGHT, ANSWER)


async def test_cancelling_stops_the_computation(engine: EngineSetup, client: ProcessClient) -> None:
    before = await idle(engine)
    msg_id = client.post("ctx/chat", chat("Go on and on.", sampling=sampling(4000)))
    await client.wait_notification("ctx/chat/delta", lambda delta: delta["seq"] >= 3)
    client.cancel(msg_id)
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert caught.value.code == -32800
    stopped = await idle(engine)
    assert 0 < stopped[DECODED] - before[DECODED] < 3000
    result = await client.request("ctx/chat", chat("Short.", "t2", sampling=sampling(7)))
    after = await idle(engine)
    assert result["usage"]["completionTokens"] == 7
    assert after[DECODED] - stopped[DECODED] <= 7, "not one more token of the cancelled answer"
    assert len(client.answers(msg_id)) == 1


async def test_two_servers_share_the_model_and_the_kv(
    driver: Driver, engine: EngineSetup, client: ProcessClient, options: dict[str, Any]
) -> None:
    text = "shared = True\n" * 50
    driver.open(client, "shared.py", text)
    await idle(engine)
    await eventually(lambda: chunks_of(client), lambda chunks: warm(chunks) == {"shared.py": True})
    second = await ready(await driver.initialize(await driver.start_process(), **options))
    driver.open(second, "shared.py", text)
    result = await second.request("ctx/chat", chat(sampling=sampling(3)))
    (chunk,) = result["chunks"]
    assert (chunk["reused"], chunk["prefill"]) == (chunk["tokens"], 0), "computed for the other window already"
    assert (await metrics(engine))["contexts"] == 2
    await second.shut_down()
    assert [chunk["name"] for chunk in await chunks_of(client)] == ["shared.py"]


async def test_an_engine_killed_in_an_answer(driver: Driver, engine: EngineSetup, client: ProcessClient) -> None:
    driver.open(client, "a.py", "text of a\n")
    driver.write("b.py", "text of b\n")
    await client.command("ctx.load", paths=["b.py"])
    await client.command("ctx.tag", refs=["b.py"], tags=["kept"])
    msg_id = client.post("ctx/chat", chat("Go on and on.", sampling=sampling(4000)))
    await client.wait_notification("ctx/chat/delta")
    killed = engine.info().pid
    engine.kill()
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert (caught.value.code, caught.value.data["code"]) == (-32803, "engine_lost")
    assert "the engine" in caught.value.message
    assert "its log is" in caught.value.message
    result = await client.request("ctx/chat", chat("And now?", "t2", sampling=sampling(5)))
    assert engine.info().pid != killed
    assert [chunk["name"] for chunk in result["chunks"]] == ["a.py", "b.py"]
    tags = {chunk["name"]: chunk["tags"] for chunk in await chunks_of(client)}
    assert (tags["a.py"], tags["b.py"]) == ([], ["kept"])


async def test_a_restored_context_finds_its_kv_again(
    driver: Driver, engine: EngineSetup, client: ProcessClient
) -> None:
    for name in ("a.py", "b.py"):
        driver.write(name, f"# {name}\n" * 60)
    await client.command("ctx.load", paths=["."])
    await client.command("ctx.save", name="work")
    before = await idle(engine)
    await client.command("ctx.delete", refs=["*.py"])
    driver.write("b.py", "# changed\n")
    restored = await client.command("ctx.restore", name="work")
    assert (restored["changed"], restored["recovered"], restored["lost"]) == (["b.py"], [], [])
    computed = (await idle(engine))["tokens_prefilled_total"] - before["tokens_prefilled_total"]
    tokens = {chunk["name"]: chunk["tokens"] for chunk in restored["chunks"]}
    assert computed < tokens["a.py"], "only what has changed is computed"


async def test_bad_input(driver: Driver, engine: EngineSetup, client: ProcessClient) -> None:
    driver.write("fine.py", "fine = 1\n")
    driver.write("huge.txt", "word and another word\n" * 3000)
    driver.write("empty.txt", "")
    driver.write("binary.bin", "a\0b")
    (driver.workspace / "latin.txt").write_bytes(b"caf\xe9")
    loaded = await client.command("ctx.load", paths=["."])
    assert [chunk["name"] for chunk in loaded["loaded"]] == ["fine.py"]
    reasons = {item["path"]: item["reason"] for item in loaded["skipped"]}
    assert {name: reasons[name] for name in ("empty.txt", "binary.bin", "latin.txt")} == {
        "empty.txt": "empty",
        "binary.bin": "binary",
        "latin.txt": "not UTF-8 (byte 3)",
    }
    assert "huge.txt" in reasons["huge.txt"]
    for ref in ("0" * 64, "nope.py", "ab"):
        with pytest.raises(RpcError) as caught:
            await client.command("ctx.activate", refs=[ref])
        assert (caught.value.code, caught.value.data["code"]) == (-32803, "unknown_chunk")
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat("word " * 20_000))
    assert (caught.value.code, caught.value.data["code"]) == (-32803, "context_full")
    assert caught.value.data["needed"] > caught.value.data["limit"]
    assert (await client.request("ctx/chat", chat("Still there?", "t2", sampling=sampling(3))))["text"]


async def test_a_model_that_is_not_there(driver: Driver, engine: EngineSetup, tmp_path: Path) -> None:
    client = await driver.initialize(await driver.start_process(), model=str(tmp_path / "no-model"))
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat", chat())
    assert (caught.value.code, caught.value.data["code"]) == (-32803, "engine_failed")
    assert "no-model" in caught.value.message
    assert (await client.request("ctx/status", {}))["state"] == "failed"


async def test_chunks_can_be_composed_tagged_and_cleared(driver: Driver, client: ProcessClient) -> None:
    for name in ("a.py", "b.py", "c.py"):
        driver.write(name, f"text of {name}\n")
    await client.command("ctx.load", paths=["*.py"])
    composed = await client.command("ctx.compose", refs=["c.py", "a.py"], name="pair")
    assert composed["kind"] == "composition"
    await client.command("ctx.deactivate", refs=["a.py", "b.py", "c.py"])
    result = await client.request("ctx/chat", chat(sampling=sampling(3)))
    assert [chunk["name"] for chunk in result["chunks"]] == ["c.py", "a.py"]
    await client.command("ctx.tag", refs=[result["output"]], tags=["good"])
    assert (await client.command("ctx.activate", refs=["#good"]))["chunks"][0]["kind"] == "output"
    await client.command("ctx.clear")
    assert await chunks_of(client) == []


async def test_two_conversations_at_once(client: ProcessClient) -> None:
    turns = [
        client.request("ctx/chat", chat(f"Question {name}", name, conversationId=name, sampling=sampling(40)))
        for name in ("one", "two")
    ]
    results = await asyncio.gather(*turns)
    for result in results:
        deltas = [delta for delta in client.notifications("ctx/chat/delta") if delta["turnId"] == result["turnId"]]
        assert "".join(delta["text"] for delta in deltas) == result["text"]


async def chunks_of(client: WireClient) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = (await client.request("ctx/chunks", {}))["chunks"]
    return chunks


def warm(chunks: list[dict[str, Any]]) -> dict[str, bool]:
    return {chunk["name"]: chunk["warmTokens"] == chunk["tokens"] for chunk in chunks}


async def test_a_client_that_hangs_up_in_the_middle_of_an_answer_leaves_no_process(
    driver: Driver, engine: EngineSetup, options: dict[str, Any], tmp_path: Path
) -> None:
    own = replace(engine, folder=tmp_path / "own")
    engine.environment.setenv("CTX_LSP_RUNTIME_DIR", str(own.folder))
    client = await ready(await driver.initialize(await driver.start_process(), **options, idleTimeout=0.5))
    pid = own.info().pid
    msg_id = client.post("ctx/chat", chat("Count on.", sampling=sampling(1000)))
    await client.wait_notification("ctx/chat/delta")
    client.hang_up()
    assert await client.wait_exit() == 1
    assert client.answers(msg_id) == [] or client.answers(msg_id)[0]["error"]["code"] == -32800

    async def lives() -> bool:
        return runtime_file.pid_alive(pid)

    await eventually(lives, lambda alive: not alive)


async def test_the_prompt_is_shown_as_the_model_sees_it(driver: Driver, client: ProcessClient) -> None:
    driver.open(client, "a.py", "def one():\n    return 1\n")
    uri = "ctx:/prompt/default?What%20is%20one%3F"
    text = (await client.request("ctx/content", {"uri": uri}))["text"]
    assert "def one():\n    return 1\n" in text
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nWhat is one?<|im_end|>\n<|im_start|>assistant\n")


async def test_prefill_is_watched_to_its_end(driver: Driver, client: ProcessClient) -> None:
    driver.open(client, "a.py", "".join(f"line {number} of many words\n" for number in range(60)))
    params = {"command": "ctx.populate", "arguments": [{"refs": ["a.py"]}], "workDoneToken": 7}
    await client.request("workspace/executeCommand", params)
    values = [params["value"]["kind"] for params in client.notifications("$/progress") if params["token"] == 7]
    assert (values[0], values[-1]) == ("begin", "end")
    (chunk,) = (await client.request("ctx/chunks", {}))["chunks"]
    assert chunk["warmTokens"] == chunk["tokens"]
