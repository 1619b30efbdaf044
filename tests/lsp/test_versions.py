"""The protocol's version: clients that speak it are served, others are refused politely and before anything happens."""

from __future__ import annotations

from typing import Any

import pytest

from ctx_lsp import protocol
from tests.lsp.driver import CAPABILITIES, Driver, EngineSetup
from tests.lsp.wire_client import RpcError


async def initialize(driver: Driver, **options: Any) -> Any:
    client = driver.start_local()
    return await client.request("initialize", driver.initialize_params(CAPABILITIES, **options))


@pytest.mark.parametrize("options", [{}, {"protocolVersion": protocol.VERSION}, {"protocolVersion": None}])
async def test_who_speaks_this_version_or_does_not_say_is_served(driver: Driver, options: dict[str, Any]) -> None:
    result = await initialize(driver, **options)
    assert result["capabilities"]["experimental"]["ctx"]["version"] == protocol.VERSION


@pytest.mark.parametrize("version", [0, protocol.VERSION + 1, -1])
async def test_another_version_is_refused_by_name(driver: Driver, engine: EngineSetup, version: int) -> None:
    with pytest.raises(RpcError) as caught:
        await initialize(driver, protocolVersion=version, documents={"meaning": "something of another version"})
    assert caught.value.code == -32602
    assert caught.value.message == (
        f"initializationOptions.protocolVersion: this server speaks version {protocol.VERSION} of the protocol, the "
        f"client version {version}: install a ctx-lsp and a client that belong together"
    )
    assert not engine.folder.exists(), "no engine was started"


async def test_what_is_no_version_is_a_wrong_value(driver: Driver) -> None:
    with pytest.raises(RpcError) as caught:
        await initialize(driver, protocolVersion="1")
    assert caught.value.message == 'initializationOptions.protocolVersion: expected an integer, got "1"'


async def test_unknown_fields_do_no_harm(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.write("a.txt", "one")
    params = {"command": "ctx.load", "arguments": [{"paths": ["a.txt"], "novelty": {"of": "version 1.5"}}]}
    result = await client.request("workspace/executeCommand", params)
    assert [chunk["name"] for chunk in result["data"]["loaded"]] == ["a.txt"]
