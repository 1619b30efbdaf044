"""Clients that send too much, too little, or hang up: the server goes on, or ends with all that it began."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.rpc.transport import MOST_BYTES, read_body
from tests.lsp.driver import CAPABILITIES, Driver, EngineSetup, ready


async def test_a_huge_message_is_taken(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client, documents="manual"))
    text = "a line of some words\n" * 1_500_000
    document = {"uri": driver.uri("huge.txt"), "languageId": "plaintext", "version": 1, "text": text}
    client.notify("textDocument/didOpen", {"textDocument": document})
    last = {"start": {"line": 1_499_999, "character": 2}, "end": {"line": 1_499_999, "character": 6}}
    selection = {"uri": driver.uri("huge.txt"), "range": last}
    assert (await client.command("ctx.addSelection", **selection))["tokens"] == 1
    assert "line" in (await engine.texts()).values()
    assert await client.shut_down() == 0


async def test_half_a_message_holds_up_nothing_but_itself(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client))
    message = {"jsonrpc": "2.0", "id": 77, "method": "ctx/status", "params": {"padding": "ü" * 1000}}
    body = json.dumps(message, ensure_ascii=False).encode()
    client.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(body), body[:700]))
    (context,) = (await engine.state())["contexts"]
    await engine.publish(context, "populate_progress", {"context": context, "done": 1, "total": 9})
    await client.wait_notification("ctx/status/didChange", lambda status: status["populate"] is not None)
    assert client.answers(77) == []
    client.send_bytes(body[700:])
    assert (await client.result(77))["state"] == "ready"


@pytest.mark.parametrize("half", [b"Content-Le", b"Content-Length: 10\r\n", b"Content-Length: 10\r\n\r\n{"])
async def test_a_server_that_waits_for_the_other_half_can_be_ended(driver: Driver, half: bytes) -> None:
    client = await driver.start_process()
    await driver.initialize(client)
    client.send_bytes(half)
    client.process.terminate()
    assert await client.wait_exit() == 0


@pytest.mark.parametrize("length", [b"9" * 30, b"9" * 5000, b"%d" % (MOST_BYTES + 1)])
async def test_a_length_that_cannot_be_meant_ends_the_server(driver: Driver, length: bytes) -> None:
    client = await driver.start_process()
    await client.request("initialize", driver.initialize_params(CAPABILITIES))
    client.send_bytes(b"Content-Length: %b\r\n\r\n{" % length)
    assert await client.wait_exit() == 1
    assert "Traceback" not in client.stderr


@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"Content-Length: ", b"Content-Length: 5\r\n\r\n"]))
def test_any_bytes_are_read_to_an_end(data: bytes, head: bytes) -> None:
    stream = io.BytesIO(head + data)
    while read_body(stream) is not None:
        pass
