"""JSON-RPC as a client sees it: every request is answered exactly once, whatever it says and whenever it comes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctx_lsp import protocol
from ctx_lsp.engines.process import EngineProcess
from ctx_lsp.rpc.jsonrpc import Phase, error_fields
from engine.errors import ContextFullError
from tests.lsp.driver import CAPABILITIES, Driver, EngineSetup, chat, eventually
from tests.lsp.wire_client import FIRST_ID, LocalClient, RpcError, WireClient


async def fails(client: WireClient, method: str, params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await client.request(method, params)
    return caught.value


async def settled(client: WireClient) -> None:
    """Everything sent before has been handled: a server handles messages in order."""
    with pytest.raises(RpcError):
        await client.request("no/suchMethod", None)


# -- what pygls gets wrong ---------------------------------------------------------------------------------------------


async def test_cancelling_a_command_cancels_its_work(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    msg_id = client.post("workspace/executeCommand", {"command": "ctx.context", "arguments": []})
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    client.cancel(msg_id)
    with pytest.raises(RpcError) as caught:
        await client.result(msg_id)
    assert caught.value.code == protocol.REQUEST_CANCELLED
    await engine.state(load_seconds=0)
    await client.request("ctx/chunks", {})
    assert len(client.answers(msg_id)) == 1
    assert client.server.protocol.requests_running == 0


@pytest.mark.parametrize("arguments", [None, [], [None], [{}], [{"unknown": 1}]])
async def test_a_commands_argument_may_be_left_out(driver: Driver, arguments: Any) -> None:
    client = await driver.start_ready()
    result = await client.request("workspace/executeCommand", {"command": "ctx.clear", "arguments": arguments})
    assert result["data"] == {"scope": "all"}


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            {"command": "ctx.compose", "arguments": [{"refs": "abc"}]},
            'refs: expected an array, got "abc"; name: is missing',
        ),
        ({"command": "ctx.compose", "arguments": [{}, {}]}, "ctx.compose takes one object, got 2 arguments"),
        ({"command": "ctx.compose", "arguments": ["x"]}, 'params: expected an object, got "x"'),
        ({"command": "ctx.compose", "arguments": "abc"}, "arguments: expected an array"),
        ({"command": 5}, "command: expected a string"),
        (None, "command: expected a string"),
    ],
)
async def test_a_commands_bad_arguments_are_named(driver: Driver, params: Any, problem: str) -> None:
    client = await driver.start()
    error = await fails(client, "workspace/executeCommand", params)
    assert (error.code, error.message) == (-32602, problem)


async def test_an_unknown_command_lists_the_known_ones(driver: Driver) -> None:
    client = await driver.start()
    error = await fails(client, "workspace/executeCommand", {"command": "ctx.nope"})
    assert error.code == -32602
    assert all(method.name in error.message for method in protocol.METHODS.values() if method.kind == "command")


async def test_notifications_leave_nothing_behind(driver: Driver) -> None:
    client = await driver.start()
    for number in range(500):
        driver.change(client, f"{number}.txt", 2, {"text": "x"})
        client.notify("$/unknown", {"x": 1})
    server = client.server.protocol
    assert server._request_futures == {}
    assert server._result_types == {}

    async def tasks() -> int:
        return len(server._notified)

    await settled(client)
    await eventually(tasks, lambda count: count == 0)


async def test_answers_of_the_client_leave_nothing_behind(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start(capabilities={"window": {"workDoneProgress": True}})
    await client.wait_notification("$/progress", lambda progress: progress["value"]["kind"] == "begin")
    assert client.server.protocol._request_futures == {}
    assert client.server.protocol._result_types == {}


async def test_the_capabilities_say_what_is_spoken(driver: Driver) -> None:
    client = driver.start_local()
    result = await client.request("initialize", driver.initialize_params(CAPABILITIES))
    capabilities = result["capabilities"]
    assert capabilities["experimental"] == {"ctx": {"version": protocol.VERSION, "slash": True}}
    commands = {method.name for method in protocol.METHODS.values() if method.kind == "command"}
    assert set(capabilities["executeCommandProvider"]["commands"]) == commands
    assert capabilities["textDocumentSync"]["openClose"] is True
    assert capabilities["textDocumentSync"]["change"] == 2
    assert result["serverInfo"]["name"] == "ctx-lsp"


# -- phases ------------------------------------------------------------------------------------------------------------


async def test_nothing_works_before_initialize(driver: Driver) -> None:
    client = driver.start_local()
    for method in ("ctx/status", "shutdown", "workspace/executeCommand"):
        assert (await fails(client, method, {})).code == -32002
    driver.open(client, "a.txt", "ignored")
    await client.request("initialize", driver.initialize_params(CAPABILITIES))
    assert client.server.session.documents.text(driver.uri("a.txt")) is None


async def test_a_request_sent_along_with_initialize_is_too_early(driver: Driver) -> None:
    client = driver.start_local()
    first = client.post("initialize", driver.initialize_params(CAPABILITIES))
    early = client.post("ctx/status", {})
    await client.result(first)
    with pytest.raises(RpcError) as caught:
        await client.result(early)
    assert caught.value.code == -32002


async def test_initialize_works_once(driver: Driver) -> None:
    client = await driver.start()
    assert (await fails(client, "initialize", driver.initialize_params(CAPABILITIES))).code == -32600


async def test_a_failed_initialize_can_be_repeated(driver: Driver) -> None:
    client = driver.start_local()
    params = driver.initialize_params(CAPABILITIES, maxContext="big", debounceMs=-1)
    error = await fails(client, "initialize", params)
    assert error.code == -32602
    assert error.message == 'initializationOptions.maxContext: expected an integer, got "big"'
    assert (await fails(client, "initialize", {"capabilities": 5})).code == -32602
    assert client.server.protocol.phase is Phase.CREATED
    await client.request("initialize", driver.initialize_params(CAPABILITIES))


async def test_after_shutdown_requests_are_refused_and_running_ones_cancelled(
    driver: Driver, engine: EngineSetup
) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    waiting = client.post("ctx/chat", chat())
    down = client.post("shutdown", None)
    late = client.post("ctx/status", {})
    assert await client.result(down) is None
    for msg_id, code in ((waiting, -32800), (late, -32600)):
        with pytest.raises(RpcError) as caught:
            await client.result(msg_id)
        assert caught.value.code == code
    assert [len(client.answers(msg_id)) for msg_id in (waiting, down, late)] == [1, 1, 1]


async def test_shutdown_drops_the_context(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    assert len((await engine.state())["contexts"]) == 1
    await client.request("shutdown", None)
    assert (await engine.state())["contexts"] == {}


# -- malformed messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{not json", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"5", -32600),
        (b'{"method": "ctx/status"}', -32600),
        (b'{"jsonrpc": "2.0"}', -32600),
        (b'{"jsonrpc": "2.0", "id": [], "method": "ctx/status"}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ctx/status"}', -32600),
    ],
)
async def test_what_is_no_message_is_answered_with_an_error_without_id(driver: Driver, body: bytes, code: int) -> None:
    client = await driver.start()
    start = len(client.received)
    client.send_raw(body)
    answer = await client.wait_for(lambda message: "error" in message, start)
    assert (answer["id"], answer["error"]["code"]) == (None, code)
    assert (await client.request("ctx/status", {}))["model"]


async def test_the_id_of_a_bad_request_is_kept(driver: Driver) -> None:
    client = await driver.start()
    client.send_raw(b'{"id": "mine", "method": "ctx/status"}')
    answer = await client.wait_for(lambda message: message.get("id") == "mine")
    assert answer["error"]["code"] == -32600


async def test_an_id_in_use_is_refused(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start()
    msg_id = client.post("ctx/chunks", {})
    client.send({"id": msg_id, "method": "ctx/status", "params": {}})
    answer = await client.wait_for(lambda message: message.get("id") == msg_id)
    assert answer["error"]["code"] == -32600


@pytest.mark.parametrize("params", [{"id": 99}, {"id": []}, {}, None, [1]])
async def test_cancelling_what_does_not_run_is_ignored(driver: Driver, params: Any) -> None:
    client = await driver.start()
    client.notify("$/cancelRequest", params)
    assert await client.request("ctx/status", {})


@pytest.mark.parametrize("params", [None, [], {}, {"textDocument": {"uri": 5}}, {"textDocument": None}])
async def test_malformed_notifications_are_ignored(driver: Driver, params: Any) -> None:
    client = await driver.start()
    for method in ("didOpen", "didChange", "didClose", "didSave"):
        client.notify(f"textDocument/{method}", params)
    assert await client.request("ctx/status", {})
    assert client.notifications("window/showMessage") == []


async def test_malformed_standard_params_are_named(driver: Driver) -> None:
    client = driver.start_local()
    error = await fails(client, "initialize", {"processId": 1})
    assert error.code == -32602
    assert "capabilities" in error.message


async def test_params_that_hold_a_message_are_params(driver: Driver) -> None:
    client = await driver.start()
    params = chat(text="x", extra={"jsonrpc": "2.0", "id": 1, "method": "shutdown"}, turnId=7)
    assert (await fails(client, "ctx/chat", params)).message == "turnId: expected a string, got an integer"


async def test_an_engine_error_keeps_its_code_and_data() -> None:
    error = ContextFullError("too full", needed=7, limit=5)
    assert error_fields(error) == (-32803, "too full", {"code": "context_full", "needed": 7, "limit": 5})


async def test_a_defect_is_answered_too(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await driver.start()
    monkeypatch.setattr(client.server, "_session", None)
    error = await fails(client, "ctx/status", {})
    assert (error.code, error.data) == (-32603, {"code": "internal_error"})


async def test_a_result_that_is_no_json_is_answered_too(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await driver.start()
    monkeypatch.setattr(client.server.session.status, "_status", {1, 2})
    assert (await fails(client, "ctx/status", {})).code == -32603


async def test_error_data_that_is_no_json_is_left_out(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await driver.start()

    def refuse(*_: Any) -> None:
        raise ContextFullError("too full", culprit=object())

    monkeypatch.setattr("ctx_lsp.commands.slash.parse", refuse)
    error = await fails(client, "ctx/slash", {"text": "/help"})
    assert (error.code, error.message, error.data) == (-32803, "too full", None)


async def test_no_handler_runs_on_pygls_threads(driver: Driver) -> None:
    client = await driver.start_ready()
    driver.write("a.txt", "text")
    await client.command("ctx.load", paths=["a.txt"])
    await client.request("ctx/chat", chat())
    assert client.server.language_server._thread_pool is None


# -- sequences ---------------------------------------------------------------------------------------------------------

ids = st.integers(FIRST_ID + 100, FIRST_ID + 120)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
methods = st.sampled_from([*protocol.METHODS, "initialize", "workspace/executeCommand", "textDocument/didOpen", "x/y"])
messages = st.one_of(
    st.builds(lambda id, method, params: {"id": id, "method": method, "params": params}, ids, methods, json_values),
    st.builds(lambda method, params: {"method": method, "params": params}, methods, json_values),
    st.builds(lambda id: {"method": "$/cancelRequest", "params": {"id": id}}, ids),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(messages, max_size=30))
def test_every_request_gets_exactly_one_answer(
    sequence: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Random sessions without an engine: requests that wait for it are cancelled at the end."""
    monkeypatch.setenv("CTX_LSP_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(EngineProcess, "find_or_start", never)
    client = asyncio.run(play(sequence))
    asked = Counter(message["id"] for message in sequence if "id" in message)
    answered = Counter(message["id"] for message in client.received if "method" not in message)
    assert answered == asked


async def play(sequence: list[dict[str, Any]]) -> LocalClient:
    client = LocalClient()
    params: dict[str, Any] = {"capabilities": {}, "processId": None, "rootUri": None}
    await client.request("initialize", params)
    for message in sequence:
        client.send(message)
    await settled(client)
    client.received = [message for message in client.received if message.get("id") not in (FIRST_ID, FIRST_ID + 1)]
    await client.close()
    return client


async def never(*_: Any) -> None:
    await asyncio.Event().wait()


def test_json_of_every_error_is_small() -> None:
    code, message, data = error_fields(ValueError("boom"))
    assert json.dumps(data) == '{"code": "internal_error"}', "no traceback is sent to the client"
    assert (code, message) == (-32603, "internal error: ValueError: boom")


async def test_the_loop_is_never_blocked_by_loading_files(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for number in range(300):
        driver.write(f"many/{number}.txt", f"file {number} " * 200)
    loading = client.post("workspace/executeCommand", {"command": "ctx.load", "arguments": [{"paths": ["many"]}]})
    await client.request("ctx/status", {})
    assert client.answers(loading) == [], "a cheap request overtakes a slow one"
    client.cancel(loading)
    with pytest.raises(RpcError):
        await client.result(loading)
    await eventually(lambda: running(client), lambda count: count == 0)


async def running(client: LocalClient) -> int:
    return client.server.protocol.requests_running
