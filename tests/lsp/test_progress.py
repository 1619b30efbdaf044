"""Work-done progress: what the client may cancel, and that nothing goes on when it does."""

from __future__ import annotations

import pytest

from tests.lsp.driver import Driver, EngineSetup, eventually
from tests.lsp.wire_client import LocalClient, RpcError


async def begun(client: LocalClient, title: str) -> dict[str, object]:
    params = await client.wait_notification("$/progress", lambda it: it["value"].get("title") == title)
    assert isinstance(params, dict)
    return params


async def test_prefill_ahead_stops_when_its_progress_is_cancelled(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    (context,) = (await engine.state())["contexts"]
    await engine.publish(context, "populate_progress", {"context": context, "done": 1, "total": 9})
    progress = await begun(client, "Reading files")
    assert progress["value"] == {
        "kind": "begin",
        "title": "Reading files",
        "cancellable": True,
        "message": "1 of 9 tokens",
        "percentage": 11,
    }
    client.notify("window/workDoneProgress/cancel", {"token": progress["token"]})
    await client.wait_for(lambda it: it.get("params") == {"token": progress["token"], "value": {"kind": "end"}})
    assert (await client.request("ctx/status", {}))["populate"] is None
    client.notify("window/workDoneProgress/cancel", {"token": progress["token"]})
    client.notify("window/workDoneProgress/cancel", {"token": "of nothing"})
    await client.request("ctx/status", {})
    assert (await engine.state())["calls"].count("POST stop_populating") == 1


async def test_starting_an_engine_cannot_be_cancelled(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    progress = await begun(client, "Starting the engine")
    assert isinstance(progress["value"], dict)
    assert progress["value"]["cancellable"] is False


def command_with_token(client: LocalClient, command: str, **argument: object) -> int:
    params = {"command": command, "arguments": [argument], "workDoneToken": "mine"}
    return client.post("workspace/executeCommand", params)


def reports(client: LocalClient, token: str) -> list[dict[str, object]]:
    return [params["value"] for params in client.notifications("$/progress") if params["token"] == token]


async def test_loading_is_reported_under_the_clients_token(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    write_files(driver)
    msg_id = command_with_token(client, "ctx.load", paths=["many"])
    result = await client.result(msg_id)
    assert len(result["data"]["loaded"]) == 70
    begin, first, *_, end = reports(client, "mine")
    assert begin == {"kind": "begin", "title": "Loading files", "cancellable": True, "percentage": 0}
    assert first == {"kind": "report", "message": "0 of 70 files", "percentage": 0}
    assert end == {"kind": "end"}
    (answer,) = client.answers(msg_id)
    assert not [it for it in client.received[client.received.index(answer) :] if it.get("method") == "$/progress"]


async def test_a_cancelled_load_goes_no_further(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    write_files(driver)
    await engine.state(stall_adding_after=40)
    msg_id = command_with_token(client, "ctx.load", paths=["many"])
    await engine.wait_texts(lambda texts: len(texts) == 40)
    client.notify("window/workDoneProgress/cancel", {"token": "mine"})
    await cancelled(client, msg_id)
    await engine.state(stall_adding_after=None)
    await client.command("ctx.context")
    # who else brings changed files to the engine may have been about to bring one of them
    assert len(await engine.texts()) <= 41
    assert len((await client.command("ctx.load", paths=["many"]))["loaded"]) == 70, "the next one begins anew"


async def test_prefill_is_seen_through_for_a_client_that_watches(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(prefills=False)
    client = await driver.start_ready()
    driver.open(client, "a.txt", "some words")
    (context,) = (await engine.state())["contexts"]
    assert (await client.command("ctx.populate"))["prefill"] == 2, "without a token it answers at once"
    msg_id = command_with_token(client, "ctx.populate")
    await client.wait_notification("$/progress", lambda it: it["token"] == "mine")
    await eventually(lambda: populates(engine), lambda count: count >= 3)
    await engine.publish(context, "populate_progress", {"context": context, "done": 1, "total": 2})
    report = {"kind": "report", "message": "1 of 2 tokens", "percentage": 50}
    await client.wait_notification("$/progress", lambda it: it["value"] == report)
    assert client.answers(msg_id) == []
    await engine.publish(context, "populate_progress", {"context": context, "done": 2, "total": 2})
    assert (await client.result(msg_id))["data"]["prefill"] == 2
    assert reports(client, "mine")[-1] == {"kind": "end"}


async def test_prefill_stops_with_the_command_that_sees_it_through(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(prefills=False)
    client = await driver.start_ready()
    driver.open(client, "a.txt", "some words")
    msg_id = command_with_token(client, "ctx.populate")
    await client.wait_notification("$/progress", lambda it: it["token"] == "mine")
    client.notify("window/workDoneProgress/cancel", {"token": "mine"})
    await cancelled(client, msg_id)
    assert "POST stop_populating" in (await engine.state())["calls"]


@pytest.mark.parametrize("token", [True, 1.5, {}, []])
async def test_a_token_of_the_wrong_type_is_refused(driver: Driver, token: object) -> None:
    client = await driver.start()
    with pytest.raises(RpcError) as caught:
        await client.request("workspace/executeCommand", {"command": "ctx.load", "workDoneToken": token})
    assert caught.value.code == -32602
    assert "workDoneToken" in caught.value.message


def write_files(driver: Driver) -> None:
    for number in range(70):
        driver.write(f"many/{number}.txt", f"file {number}")


async def populates(engine: EngineSetup) -> int:
    calls: list[str] = (await engine.state())["calls"]
    return calls.count("POST populate")


async def cancelled(client: LocalClient, msg_id: int) -> None:
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert caught.value.code == -32800
    assert reports(client, "mine")[-1] == {"kind": "end"}
