"""Work-done progress: what the client may cancel, and that nothing goes on when it does."""

from __future__ import annotations

from tests.lsp.driver import Driver, EngineSetup
from tests.lsp.wire_client import LocalClient


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
