"""Engines that are found, started, shared, that fail to start, and that die."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ctx_lsp.engines.process import EngineProcess, EngineStartError
from engine.config import EngineConfig
from engine.serve import runtime_file
from tests.lsp.driver import Driver, EngineSetup, chat, eventually, ready
from tests.lsp.wire_client import LocalClient, RpcError


async def fails(client: LocalClient, method: str = "ctx/chunks", params: Any = None) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await client.request(method, params)
    return caught.value


async def state_of(client: LocalClient) -> dict[str, Any]:
    status: dict[str, Any] = await client.request("ctx/status", {})
    return status


async def test_two_servers_share_one_engine_and_no_chunks(driver: Driver, engine: EngineSetup) -> None:
    one, two = await asyncio.gather(driver.start_ready(), driver.start_ready())
    driver.open(one, "one.txt", "text one")
    driver.open(two, "two.txt", "text two")
    for client in (one, two):
        await client.request("ctx/chat", chat())
    seen = [record["seen"] for record in (await engine.state())["chats"]]
    assert seen == [{"one.txt": "text one"}, {"two.txt": "text two"}]
    assert len(list(engine.folder.glob("engine-*.json"))) == 1
    await one.close()
    contexts = (await engine.state())["contexts"]
    assert [[chunk["name"] for chunk in chunks if chunk["kind"] == "file"] for chunks in contexts.values()] == [
        ["two.txt"]
    ]


async def test_another_model_is_another_engine(driver: Driver, engine: EngineSetup) -> None:
    await driver.start_ready()
    await driver.start_ready(model="other-model")
    infos = [runtime_file.read(path) for path in engine.folder.glob("engine-*.json")]
    assert {info.model for info in infos if info} == {"qwen2.5-coder-0.5b", "other-model"}


async def test_options_become_arguments(engine: EngineSetup) -> None:
    config = EngineConfig(
        model="m", device="cpu", dtype="float32", kv_dtype="fp8", kv_cache_tokens=7, max_context=5, threads=2
    )
    command = EngineProcess(config, idle_timeout=1.5)._command()
    assert command[-18:-2] == [
        *("--model", "m", "--device", "cpu", "--dtype", "float32", "--kv-dtype", "fp8", "--kv-cache-tokens", "7"),
        *("--max-context", "5", "--threads", "2", "--idle-timeout", "1.5"),
    ]
    assert Path(command[-1]).parent == engine.folder


async def test_instructions_reach_the_context(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready(instructions="Answer in French.")
    assert (await client.request("ctx/chunks", {}))["limit"] == 1000
    assert (await engine.state())["instructions"] == ["Answer in French."]


async def test_order_reaches_the_context(driver: Driver, engine: EngineSetup) -> None:
    for options, order in (({}, "recency"), ({"order": "fixed"}, "fixed")):
        client = await driver.start_ready(**options)
        await client.request("ctx/chunks", {})
        assert (await engine.state())["orders"][-1] == order


async def test_a_model_that_is_exact_only_is_told_once(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(exact_only="its positions depend on the length")
    client = await driver.start_ready()
    assert (await state_of(client))["message"] == "its positions depend on the length"
    await client.command("ctx.activate", refs=[(await load_one(driver, client))["hash"]])
    assert (await state_of(client))["message"] == "ready"
    engine.kill()
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "stopped")
    await client.request("ctx/chunks", {})
    (shown,) = client.notifications("window/showMessage")
    assert (shown["type"], shown["message"]) == (2, "its positions depend on the length")


async def load_one(driver: Driver, client: LocalClient) -> dict[str, Any]:
    driver.write("one.txt", "some words")
    chunk: dict[str, Any] = (await client.command("ctx.load", paths=["one.txt"]))["loaded"][0]
    return chunk


@pytest.mark.parametrize("kind", ["dead process", "nobody listens", "malformed"])
async def test_a_runtime_file_left_behind_is_not_believed(driver: Driver, engine: EngineSetup, kind: str) -> None:
    path = runtime_file.runtime_path(EngineConfig())
    stale = {"url": "http://127.0.0.1:9", "token": "x", "pid": os.getpid(), "model": "m", "version": "0", "started": 0}
    if kind == "dead process":
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        stale["pid"] = process.pid
    engine.folder.mkdir(mode=0o700)
    path.write_text("{" if kind == "malformed" else json.dumps(stale))
    client = await driver.start_ready()
    assert (await client.request("ctx/chat", chat()))["stopReason"] == "stop"
    assert engine.info().pid != stale["pid"]


async def test_an_engine_that_can_not_start_says_why_and_is_tried_again(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(exit_at_start=3)
    client = await driver.start(device="cuda:7")
    error = await fails(client)
    assert (error.code, error.data["code"]) == (-32803, "engine_start_failed")
    assert "exit code 1" in error.message
    assert "no such device: cuda:7" in error.message
    assert Path(error.data["log"]).read_text().count("no such device") >= 1
    status = await state_of(client)
    assert status["state"] == "failed"
    assert "no such device" in status["message"]
    engine.behave()
    assert (await client.request("ctx/chunks", {}))["chunks"] == []
    assert (await state_of(client))["state"] == "ready"


async def test_a_command_that_does_not_exist_is_a_clear_error(engine: EngineSetup) -> None:
    engine.environment.setenv("CTX_LSP_ENGINE_COMMAND", "/no/such/program")
    with pytest.raises(EngineStartError, match="No such file"):
        await EngineProcess(EngineConfig()).find_or_start(lambda _: None)


async def test_a_model_that_can_not_be_loaded_says_why_and_is_tried_again(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_error="the file has the wrong hash")
    client = await driver.start()
    error = await fails(client)
    assert error.data["code"] == "engine_failed"
    assert "the file has the wrong hash" in error.message
    failed = engine.info().pid
    engine.behave()
    await client.request("ctx/chunks", {})
    assert engine.info().pid != failed


async def test_everyone_who_waits_hears_of_the_failure(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(exit_at_start=3)
    client = await driver.start()
    waiting = [client.post("ctx/chunks", {}) for _ in range(5)]
    for msg_id in waiting:
        with pytest.raises(RpcError, match="no such device"):
            await client.result(msg_id)


async def test_an_idle_engine_that_dies_is_noticed_and_replaced_on_the_next_need(
    driver: Driver, engine: EngineSetup
) -> None:
    client = await driver.start_ready()
    driver.open(client, "open.txt", "an open document")
    for name in ("loaded.txt", "quiet.txt", "part.txt"):
        driver.write(name, f"text of {name}")
    await client.command("ctx.load", paths=["loaded.txt", "quiet.txt", "part.txt"])
    await client.request("ctx/chat", chat())
    await client.command("ctx.tag", refs=["loaded.txt"], tags=["kept"])
    await client.command("ctx.compose", refs=["part.txt", "loaded.txt"], name="both")
    await client.command("ctx.deactivate", refs=["quiet.txt", "both"])
    await client.command("ctx.pin", refs=["part.txt"])
    before = (await client.request("ctx/chunks", {}))["chunks"]
    engine.kill()
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "stopped")
    message = (await state_of(client))["message"]
    assert "signal 9" in message
    assert "next request" in message
    driver.change(client, "open.txt", 2, {"text": "edited while the engine was gone"})
    driver.write("loaded.txt", "changed on disk meanwhile")
    after = (await client.request("ctx/chunks", {}))["chunks"]
    assert [chunk["kind"] for chunk in after] == [chunk["kind"] for chunk in before]
    for name in ("sources", "tags", "active", "kind", "pinned"):
        assert [chunk[name] for chunk in after] == [chunk[name] for chunk in before]
    assert [chunk["name"] for chunk in after if chunk["pinned"]] == ["part.txt"]
    texts = await engine.texts()
    assert texts["open.txt"] == "edited while the engine was gone"
    assert texts["loaded.txt"] == "changed on disk meanwhile"
    assert texts["answer 1"] == "A plain answer."


async def test_an_edit_does_not_start_a_dead_engine(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "text")
    await engine.wait_texts(bool)
    engine.kill()
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "stopped")
    start = len(client.received)
    driver.change(client, "a.txt", 2, {"text": "edited"})
    await eventually(lambda: at_rest(client), bool)
    assert (await state_of(client))["state"] == "stopped"
    states = [message["params"]["state"] for message in client.received[start:] if "state" in message.get("params", {})]
    assert "starting" not in states
    await client.request("ctx/chunks", {})
    assert await engine.texts() == {"a.txt": "edited"}


async def at_rest(client: LocalClient) -> bool:
    return not client.server.session.documents._pending._timers


async def test_an_engine_that_dies_while_it_loads(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    waiting = client.post("ctx/chunks", {})
    engine.behave()
    engine.kill()
    with pytest.raises(RpcError) as caught:
        await client.result(waiting)
    assert caught.value.data["code"] == "engine_lost"
    assert "signal 9" in caught.value.message
    assert (await client.request("ctx/chunks", {}))["chunks"] == []


async def test_a_cancelled_request_does_not_stop_the_start_for_others(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    first, second = client.post("ctx/chunks", {}), client.post("ctx/chunks", {})
    client.cancel(first)
    with pytest.raises(RpcError):
        await client.result(first)
    await engine.state(load_seconds=0)
    assert (await client.result(second))["chunks"] == []


async def test_an_engine_that_another_client_shut_down(driver: Driver, engine: EngineSetup) -> None:
    one, two = await driver.start_ready(), await driver.start_ready()
    driver.open(two, "two.txt", "text two")
    runtime_file.request_shutdown(engine.info())
    for client, words in ((one, "exit code 0"), (two, "the engine has ended")):
        await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "stopped")
        assert words in (await state_of(client))["message"]
    await asyncio.gather(*(client.request("ctx/chat", chat()) for client in (one, two)))
    assert sorted(len(record["seen"]) for record in (await engine.state())["chats"]) == [0, 1]


# -- status ------------------------------------------------------------------------------------------------------------


async def test_loading_is_shown_as_status_and_as_progress(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    status = await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    assert (status["message"], status["progress"], status["model"]) == ("reading weights", 0.5, "qwen2.5-coder-0.5b")
    begin = await client.wait_notification("$/progress", lambda progress: progress["value"]["kind"] == "begin")
    assert begin["value"]["title"] == "Starting the engine"
    await client.wait_notification("$/progress", lambda progress: progress["value"].get("percentage") == 50)
    await engine.state(load_seconds=0)
    await ready(client)
    end = await client.wait_notification("$/progress", lambda progress: progress["value"]["kind"] == "end")
    assert end["token"] == begin["token"]
    status = await state_of(client)
    assert (status["state"], status["device"], status["limit"], status["progress"]) == ("ready", "cpu", 1000, None)


async def test_a_client_without_progress_gets_none(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start(capabilities={"window": {}})
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    await engine.state(load_seconds=0)
    await client.request("ctx/chunks", {})
    methods = {message.get("method") for message in client.received}
    assert not methods & {"window/workDoneProgress/create", "$/progress", "client/registerCapability"}


async def test_prefill_ahead_is_shown_as_progress(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    (context,) = (await engine.state())["contexts"]
    await engine.publish(context, "populate_progress", {"context": context, "done": 250, "total": 1000})
    status = await client.wait_notification("ctx/status/didChange", lambda status: status["populate"])
    assert status["populate"] == {"done": 250, "total": 1000, "phase": "populate"}
    begin = await client.wait_notification("$/progress", lambda it: it["value"].get("title") == "Reading files")
    assert (begin["value"]["message"], begin["value"]["percentage"]) == ("250 of 1,000 tokens", 25)
    await engine.publish(context, "populate_progress", {"context": context, "done": 1000, "total": 1000})
    await client.wait_for(lambda message: message.get("params") == {"token": begin["token"], "value": {"kind": "end"}})
    assert (await state_of(client))["populate"] is None
    refining = {"context": context, "done": 10, "total": 40, "phase": "refine"}
    await engine.publish(context, "populate_progress", refining)
    state = {"done": 10, "total": 40, "phase": "refine"}
    await client.wait_notification("ctx/status/didChange", lambda status: status["populate"] == state)
    await client.wait_notification("$/progress", lambda it: it["value"].get("title") == "Refining")


async def test_prefill_ahead_that_fails_says_why(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    (context,) = (await engine.state())["contexts"]
    await engine.publish(context, "populate_progress", {"context": context, "done": 1, "total": 9})
    failure = {"context": context, "code": "context_full", "message": "the files have 9 tokens too many"}
    await engine.publish(context, "populate_failed", failure)
    status = await client.wait_notification("ctx/status/didChange", lambda status: "too many" in status["message"])
    assert (status["state"], status["populate"]) == ("ready", None)


async def test_the_reason_is_shown_until_prefill_ahead_succeeds(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    (context,) = (await engine.state())["contexts"]
    failure = {"context": context, "code": "context_full", "message": "the files have 9 tokens too many"}
    await engine.publish(context, "populate_failed", failure)
    await client.wait_notification("ctx/status/didChange", lambda status: "too many" in status["message"])
    start = len(client.received)
    driver.open(client, "a.txt", "short")
    await client.wait_for(lambda message: message.get("params", {}).get("message") == "ready", start)


async def test_changed_chunks_are_announced(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "one two three")
    change = await client.wait_notification("ctx/chunks/didChange", lambda change: change["activeTokens"] == 3)
    assert change == {"activeTokens": 3, "limit": 1000}
    assert (await state_of(client))["activeTokens"] == 3


async def test_asking_for_chunks_announces_nothing(driver: Driver, engine: EngineSetup) -> None:
    """A client asks whenever it hears of a change; it must come to rest."""
    client = await driver.start_ready()
    driver.open(client, "a.txt", "one two three")
    settled: list[int] = []

    async def announcements() -> bool:
        for _ in range(5):
            await client.request("ctx/chunks", {})
        settled.append(len(client.notifications("ctx/chunks/didChange")))
        return len(settled) > 10 and len(set(settled[-10:])) == 1

    await eventually(announcements, bool)


async def test_an_event_that_makes_no_sense_does_no_harm(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    (context,) = (await engine.state())["contexts"]
    await engine.publish(context, "populate_progress", {"unexpected": True})
    await engine.publish(context, "future_event", 5)
    await engine.publish(context, "populate_progress", {"done": 1, "total": 2})
    await client.wait_notification("ctx/status/didChange", lambda status: (status["populate"] or {}).get("total") == 2)


async def test_unknown_options_are_named_in_the_log(driver: Driver) -> None:
    client = await driver.start(temprature=0.5, model=None)
    log = await client.wait_notification("window/logMessage")
    assert log["message"] == "ignoring unknown options: temprature"
