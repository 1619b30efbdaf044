"""The same session over stdio, TCP and WebSocket; who may come in, and several editors at once."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from ctx_lsp import serving
from ctx_lsp.rpc.access_token import AccessToken, UnauthorizedError
from ctx_lsp.serving import Listening, parse_address
from tests.lsp.driver import CAPABILITIES, Driver, EngineSetup, chat, edit, eventually, ready
from tests.lsp.listening import ListeningServer, start_serving
from tests.lsp.wire_client import PATIENCE, RpcError, WireClient

BOTH = pytest.mark.parametrize("transport", ["tcp", "ws"])


class Listeners:
    """Starts servers that listen. All are stopped when the test ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def start(self, transport: str, *arguments: str, host: str = "127.0.0.1") -> ListeningServer:
        server = await ListeningServer.start(transport, *arguments, host=host)
        self._stack.push_async_callback(server.stop)
        return server


@pytest.fixture
async def listeners(engine: EngineSetup) -> AsyncIterator[Listeners]:
    async with AsyncExitStack() as stack:
        yield Listeners(stack)


async def begin(driver: Driver, server: ListeningServer, **options: Any) -> WireClient:
    """A client that is let in and has its engine."""
    client = await server.connect()
    return await ready(await driver.initialize(client, token=server.token, **options))


@pytest.mark.parametrize("transport", ["stdio", "tcp", "ws"])
async def test_the_same_session(driver: Driver, engine: EngineSetup, listeners: Listeners, transport: str) -> None:
    client: WireClient
    if transport == "stdio":
        client = await ready(await driver.initialize(await driver.start_process()))
    else:
        client = await begin(driver, await listeners.start(transport))
    driver.open(client, "a.txt", "größe 😀\n" + "x" * 100_000)
    driver.change(client, "a.txt", 2, edit((0, 6), (0, 8), "🙂"))
    answer = await client.request("ctx/chat", chat())
    assert answer["text"] == "".join(delta["text"] for delta in client.notifications("ctx/chat/delta"))
    assert (await engine.texts())["a.txt"] == "größe 🙂\n" + "x" * 100_000
    client.send_raw(b"{broken")
    await client.wait_for(lambda message: message.get("error", {}).get("code") == -32700)
    with pytest.raises(RpcError, match="no/such"):
        await client.request("no/such", {})
    await client.request("shutdown", None)
    client.notify("exit", None)
    with pytest.raises(EOFError):
        await client.wait_for(lambda _: False)
    assert (await engine.state())["contexts"] == {}


# -- who may come in ---------------------------------------------------------------------------------------------------


@BOTH
async def test_without_the_token_nobody_is_served(
    driver: Driver, engine: EngineSetup, listeners: Listeners, transport: str
) -> None:
    server = await listeners.start(transport)
    for token in (None, "", "wrong", 7):
        client = await server.connect()
        with pytest.raises(RpcError) as caught:
            await client.request("initialize", driver.initialize_params(CAPABILITIES, token=token))
        assert caught.value.data["code"] == "unauthorized"
        assert server.token_place in caught.value.message
        assert server.token not in caught.value.message
        with pytest.raises(EOFError):
            await client.wait_for(lambda _: False)
    assert not list(engine.folder.glob("engine-*"))
    await begin(driver, server)


@BOTH
async def test_who_connects_and_says_nothing_is_hung_up_on(
    engine: EngineSetup,
    transport: Literal["tcp", "ws"],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(serving, "LOGIN_SECONDS", 0)
    listening = asyncio.create_task(
        serving._serve_listening(Listening(transport, "127.0.0.1", 0), AccessToken("secret", "a place"))
    )

    async def printed() -> str:
        return capsys.readouterr().out

    line = await eventually(printed, bool)
    port = int(line.partition(";")[0].rpartition(":")[2])
    if transport == "tcp":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
    else:
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as connection:
            await connection.wait_closed()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening


async def test_a_web_page_may_not_connect(listeners: Listeners) -> None:
    server = await listeners.start("ws", "--allow-origin", "http://localhost:3000")
    with pytest.raises(InvalidStatus, match="403"):
        await connect(server.url, origin=Origin("http://evil.example"), proxy=None)
    async with connect(server.url, origin=Origin("http://localhost:3000"), proxy=None):
        pass


@BOTH
async def test_the_token_file_is_the_owners_alone(
    driver: Driver, listeners: Listeners, tmp_path: Path, transport: str
) -> None:
    path = tmp_path / "token"
    server = await listeners.start(transport, "--token-file", str(path))
    assert server.token_place == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text()
    assert len(token.strip()) >= 32
    await begin(driver, await listeners.start(transport, "--token-file", str(path)))
    assert path.read_text() == token, "a file that is there is kept"
    path.chmod(0o640)
    assert "must be yours alone" in await refusal(f"--{transport}", "127.0.0.1:0", "--token-file", str(path))


async def test_the_token_may_come_from_the_environment(
    driver: Driver, listeners: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTX_LSP_TOKEN", "from the environment")
    server = await listeners.start("tcp")
    client = await server.connect()
    await ready(await driver.initialize(client, token="from the environment"))
    monkeypatch.setenv("CTX_LSP_TOKEN", " ")
    assert "no token" in await refusal("--tcp", "127.0.0.1:0")


@pytest.mark.parametrize("place", ["0.0.0.0:0", "192.0.2.1:4711", "example.org:1", "127.0.0.1", "127.0.0.1:99999"])
def test_only_loopback_is_listened_on(place: str) -> None:
    with pytest.raises(ValueError, match=r"loopback|HOST:PORT|port"):
        parse_address(place)


async def test_what_can_not_be_listened_on_is_said(engine: EngineSetup, listeners: Listeners) -> None:
    assert "loopback" in await refusal("--tcp", "0.0.0.0:0")
    server = await listeners.start("tcp")
    assert "in use" in await refusal("--ws", f"127.0.0.1:{server.port}")


def test_addresses() -> None:
    assert parse_address("localhost:4711") == parse_address(":4711") == ("127.0.0.1", 4711)
    assert parse_address("[::1]:0") == ("::1", 0)


@given(secret=st.text(min_size=1), offered=st.none() | st.integers() | st.text())
def test_only_the_token_itself_opens(secret: str, offered: Any) -> None:
    token = AccessToken(secret, "there")
    token.check(secret)
    if offered != secret:
        with pytest.raises(UnauthorizedError):
            token.check(offered)


async def refusal(*arguments: str) -> str:
    """What a server that can't listen says."""
    process = await start_serving(*arguments)
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    return err.decode()


# -- several at once ---------------------------------------------------------------------------------------------------


async def test_editors_on_one_workspace_share_the_engine_and_nothing_else(
    driver: Driver, engine: EngineSetup, listeners: Listeners
) -> None:
    """One over stdio and two over TCP, with the same file open in different states, asking at the same time."""
    server = await listeners.start("tcp")
    clients: list[WireClient] = [
        await ready(await driver.initialize(await driver.start_process())),
        await begin(driver, server, instructions="Be kind."),
        await begin(driver, server),
    ]
    for client in clients:
        driver.open(client, "same.txt", "as on disk")
    for number, client in enumerate(clients):
        driver.change(client, "same.txt", 2, edit((0, 0), (0, 2), f"editor {number}"))
    answers = await asyncio.gather(*(client.request("ctx/chat", chat()) for client in clients))
    assert [answer["stopReason"] for answer in answers] == ["stop"] * 3
    state = await engine.state()
    assert {record["seen"]["same.txt"] for record in state["chats"]} == {f"editor {n} on disk" for n in range(3)}
    assert sorted(map(str, state["instructions"])) == ["Be kind.", "None", "None"]
    assert len(list(engine.folder.glob("engine-*.json"))) == 1, "the model is loaded once"
    clients[0].notify("exit", None)
    await clients[1].request("shutdown", None)
    clients[1].notify("exit", None)
    with pytest.raises(EOFError):
        await clients[1].wait_for(lambda _: False)
    assert (await clients[2].request("ctx/chat", chat(turn="t2")))["stopReason"] == "stop"
    (left,) = (await engine.state())["contexts"].values()
    assert [chunk["text"] for chunk in left if "same.txt" in chunk["sources"]] == ["editor 2 on disk"]


@BOTH
async def test_a_server_that_is_told_to_stop_ends_all_sessions(
    driver: Driver, engine: EngineSetup, listeners: Listeners, transport: str
) -> None:
    server = await listeners.start(transport)
    clients = [await begin(driver, server) for _ in range(2)]
    await engine.state(answer=["one ", "two"], stall_after=1)
    clients[0].post("ctx/chat", chat())
    await clients[0].wait_notification("ctx/chat/delta")
    assert await server.stop() == 0
    state = await engine.state()
    assert (state["contexts"], state["chats"][0]["ended"]) == ({}, "cancelled")


@BOTH
async def test_a_client_that_hangs_up_in_mid_answer_leaves_nothing(
    driver: Driver, engine: EngineSetup, listeners: Listeners, transport: str
) -> None:
    server = await listeners.start(transport)
    other = await begin(driver, server)
    client = await begin(driver, server)
    await engine.state(answer=["one ", "two"], stall_after=1)
    client.post("ctx/chat", chat())
    await client.wait_notification("ctx/chat/delta")
    await client.close()

    async def contexts() -> int:
        return len((await engine.state(stall_after=None))["contexts"])

    await eventually(contexts, lambda count: count == 1)
    assert (await other.request("ctx/chat", chat()))["stopReason"] == "stop"
