"""The server as a process: what it imports, how it reads and writes, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lsp.driver import CAPABILITIES, Driver, EngineSetup, chat, eventually, ready
from tests.lsp.wire_client import RpcError

HEAVY = ("torch", "transformers", "numpy", "fastapi", "uvicorn", "safetensors", "tokenizers")
ON_LINUX = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")


def test_importing_the_server_imports_nothing_heavy() -> None:
    code = f"import sys, ctx_lsp.cli.serve; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@ON_LINUX
async def test_a_server_at_work_has_nothing_heavy_in_it(driver: Driver) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client))
    driver.open(client, "a.txt", "some text")
    driver.write("b.txt", "more text")
    await client.request("ctx/chat", chat())
    await client.command("ctx.load", paths=["b.txt"])
    await client.request("ctx/slash", {"text": "/context"})
    maps = Path(f"/proc/{client.process.pid}/maps").read_text()
    assert "python" in maps
    assert not [name for name in ("torch", "numpy", "tokenizers", "safetensors") if f"/{name}/" in maps]
    assert await client.shut_down() == 0


async def test_initialize_does_not_wait_for_the_engine(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start_process()
    await client.request("initialize", driver.initialize_params(CAPABILITIES))
    assert not engine.folder.exists(), "the engine is started after initialized"
    client.notify("initialized", {})
    waiting = client.post("ctx/chat", chat())
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    assert (await client.request("ctx/status", {}))["state"] == "loading"
    assert client.answers(waiting) == []
    assert await client.shut_down() == 0


async def test_an_exit_without_shutdown_is_a_failure(driver: Driver) -> None:
    client = await driver.start_process()
    await driver.initialize(client)
    client.notify("exit", None)
    assert await client.wait_exit() == 1


async def test_a_client_that_hangs_up_ends_the_server(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client))
    client.hang_up()
    assert await client.wait_exit() == 1
    assert (await engine.state())["contexts"] == {}, "the context is dropped all the same"


async def test_a_client_that_hangs_up_in_mid_answer_ends_the_server(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client))
    await engine.state(answer=["one ", "two"], stall_after=1)
    client.post("ctx/chat", chat())
    await client.wait_notification("ctx/chat/delta")
    client.hang_up()
    assert await client.wait_exit() == 1
    state = await engine.state()
    assert (state["contexts"], state["chats"][0]["ended"]) == ({}, "cancelled")


async def test_an_editor_that_was_killed_ends_the_server(driver: Driver, engine: EngineSetup) -> None:
    """Its pipes need not be closed: other processes may have inherited them."""
    editor = await asyncio.create_subprocess_exec("sleep", "600")
    client = await driver.start_process()
    params = driver.initialize_params(CAPABILITIES) | {"processId": editor.pid}
    await client.request("initialize", params)
    client.notify("initialized", {})
    await ready(client)
    editor.kill()
    await editor.wait()
    assert await client.wait_exit() == 1
    assert (await engine.state())["contexts"] == {}


async def test_an_editor_in_another_container_is_not_taken_for_dead(driver: Driver) -> None:
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    client = await driver.start_process()
    await client.request("initialize", driver.initialize_params(CAPABILITIES) | {"processId": ended.pid})
    client.notify("initialized", {})
    await ready(client)
    assert await client.shut_down() == 0


async def test_sigterm_ends_the_server_politely(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client))
    client.process.terminate()
    assert await client.wait_exit() == 0
    assert (await engine.state())["contexts"] == {}


async def test_the_engine_outlives_the_server(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client))
    pid = engine.info().pid
    assert os.getsid(pid) != os.getsid(client.process.pid), "a Ctrl-C in the server's terminal must not reach it"
    await client.shut_down()
    second = await driver.start_process()
    await ready(await driver.initialize(second))
    assert engine.info().pid == pid


async def test_without_arguments_the_module_serves() -> None:
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "ctx_lsp", stdin=pipe, stdout=pipe)
    out, _ = await process.communicate(b"Content-Length: 2\r\n\r\n[]")
    assert b'"code": -32600' in out


async def test_headers_in_any_order_and_case(driver: Driver) -> None:
    client = await driver.start_process()
    body = json.dumps({"jsonrpc": "2.0", "id": 9, "method": "ctx/status", "params": {}}).encode()
    for head in (
        b"content-length: %d\r\n",
        b"Content-Type: x; charset=utf-8\r\nContent-Length:%d\r\n",
        b"X: y\r\nCONTENT-LENGTH: %d\r\n",
    ):
        start = len(client.received)
        client.send_bytes(head % len(body) + b"\r\n" + body)
        await client.wait_for(lambda message: message.get("id") == 9, start)


async def test_broken_framing_is_skipped(driver: Driver) -> None:
    client = await driver.start_process()
    client.send_bytes(b"what is this?\r\n\r\nContent-Length: nonsense\r\n\r\n")
    client.send_raw(b"{broken")
    await driver.initialize(client)
    assert client.received[0]["error"]["code"] == -32700


async def test_a_message_that_breaks_off_ends_the_server(driver: Driver) -> None:
    client = await driver.start_process()
    await driver.initialize(client)
    client.send_bytes(b"Content-Length: 1000\r\n\r\n{")
    client.hang_up()
    assert await client.wait_exit() == 1


async def test_a_client_that_does_not_read_does_not_stop_the_server(driver: Driver, engine: EngineSetup) -> None:
    """More than a pipe holds is on its way to the client, yet the server still hears it cancel."""
    client = await driver.start_process()
    await ready(await driver.initialize(client))
    await engine.state(answer=["x" * 10_000 for _ in range(100)], stall_after=50)
    client.pause_reading()
    msg_id = client.post("ctx/chat", chat())
    await eventually(lambda: ended_or_stalled(engine, 50), bool)
    client.cancel(msg_id)
    chats = await eventually(lambda: all_chats(engine), lambda chats: chats[0]["ended"] is not None)
    assert chats[0]["ended"] == "cancelled"
    client.resume_reading()
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert caught.value.code == -32800


async def test_what_is_printed_does_not_reach_the_client(tmp_path: Path) -> None:
    code = (
        "from ctx_lsp import server, serving\n"
        "class Chatty(server.Server):\n"
        "    def __init__(self, **options):\n"
        "        print('stray')\n"
        "        super().__init__(**options)\n"
        "serving.Server = Chatty\n"
        "serving.main_stdio()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate(b"")
    assert out == b""
    assert b"stray" in err


async def all_chats(engine: EngineSetup) -> list[dict[str, object]]:
    chats: list[dict[str, object]] = (await engine.state())["chats"]
    return chats


async def ended_or_stalled(engine: EngineSetup, words: int) -> bool:
    chats = await all_chats(engine)
    return bool(chats) and chats[0]["generated"] == words
