"""A ctx-engine that runs already, reached by its URL."""

from __future__ import annotations

import pytest

from tests.lsp.driver import Driver, EngineSetup, chat, ready
from tests.lsp.wire_client import RpcError


async def test_it_is_used_like_one_of_this_machine(driver: Driver, engine: EngineSetup) -> None:
    await driver.start_ready(documents="manual", files={"maxTokens": 0})  # its server starts the engine
    info = engine.info()
    client = await ready(await driver.start(engine={"url": info.url, "token": info.token}, model="whatever"))
    driver.open(client, "a.py", "alpha beta")
    result = await client.request("ctx/chat", chat())
    assert (result["text"], [chunk["name"] for chunk in result["chunks"]]) == ("A plain answer.", ["a.py"])
    assert len((await engine.state())["contexts"]) == 2, "each server has a context of its own"


@pytest.mark.parametrize("token", ["wrong", None])
async def test_without_its_token_it_refuses(driver: Driver, engine: EngineSetup, token: str | None) -> None:
    await driver.start_ready(files={"maxTokens": 0})
    client = await driver.start(engine={"url": engine.info().url, "token": token})
    with pytest.raises(RpcError, match=r"refuses: .*\(engine.token\)") as caught:
        await client.request("ctx/chat", chat())
    assert caught.value.data["code"] == "unauthorized"


async def test_one_that_has_gone_is_not_started_again(driver: Driver, engine: EngineSetup) -> None:
    await driver.start_ready(files={"maxTokens": 0})
    info = engine.info()
    client = await ready(await driver.start(engine={"url": info.url, "token": info.token}))
    engine.kill()
    status = await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "stopped")
    assert status["message"].endswith("the next request tries to reach it again")
    with pytest.raises(RpcError, match="can't reach") as caught:
        await client.request("ctx/chat", chat())
    assert caught.value.data["code"] == "engine_unreachable"
