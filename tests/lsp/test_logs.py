"""What goes to the log file, to the client's log and to its trace, and what doesn't."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.client import logs
from ctx_lsp.rpc.tracing import shortened
from tests.lsp.driver import CAPABILITIES, Driver, EngineSetup, chat, ready
from tests.lsp.wire_client import LocalClient, RpcError, WireClient

SECRET = "a-token-that-nobody-may-read"
TEXT = "the-text-of-a-file"


def logged(client: WireClient) -> list[str]:
    return [params["message"] for params in client.notifications("window/logMessage")]


def traced(client: WireClient) -> list[dict[str, Any]]:
    return client.notifications("$/logTrace")


async def test_each_process_has_a_log_file_of_its_own(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_process()
    await ready(await driver.initialize(client, token=SECRET, logLevel="debug", unknown=1))
    driver.open(client, "a.txt", TEXT)
    await client.request("ctx/chat", chat(TEXT))
    path = Path((await client.request("ctx/status", {}))["logFile"])
    assert await client.shut_down() == 0
    assert path.name == f"server-{client.process.pid}.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log = path.read_text()
    assert "INFO ctx_lsp: ctx-lsp " in log
    assert "ignoring unknown options: unknown" in log
    assert TEXT not in log
    assert SECRET not in log


async def test_only_the_latest_logs_are_kept(driver: Driver, engine: EngineSetup) -> None:
    folder = logs.folder()
    folder.mkdir(parents=True)
    for number in range(30):
        path = folder / f"server-{number}.log"
        path.touch()
        os.utime(path, (number, number))
    client = await driver.start_process()
    await driver.initialize(client)
    assert await client.shut_down() == 0
    kept = {path.name for path in folder.iterdir()}
    assert kept == {f"server-{number}.log" for number in range(20, 30)} | {f"server-{client.process.pid}.log"}


async def test_without_a_place_for_logs_the_server_serves(
    driver: Driver, engine: EngineSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CTX_LSP_STATE_DIR", str(tmp_path / "file"))
    client = await driver.start_process()
    await driver.initialize(client)
    assert (await client.request("ctx/status", {}))["logFile"] is None
    assert await client.shut_down() == 0
    await client.close()
    assert "there is no log file" in client.stderr


async def test_a_client_hears_as_much_as_it_asked_for(driver: Driver) -> None:
    quiet = await driver.start(logLevel="error", unknown=1)
    usual = await driver.start(unknown=1)
    for client in (quiet, usual):
        await ready(client)
        await change_closed(client)
    assert logged(quiet) == []
    assert "ignoring unknown options: unknown" in logged(usual)
    assert sum("which is not open" in message for message in logged(usual)) == 1, "each hears of its own session alone"


async def test_how_much_is_told_can_be_changed(driver: Driver) -> None:
    client = await driver.start_ready(logLevel="error")
    await change_closed(client)
    client.notify("workspace/didChangeConfiguration", {"settings": {"ctx": {"logLevel": "warning", "debounceMs": -1}}})
    await client.wait_notification("window/showMessage")
    await change_closed(client)
    assert sum("which is not open" in message for message in logged(client)) == 1


async def change_closed(client: LocalClient) -> None:
    """Something that the server warns of."""
    document = {"uri": "file:///nowhere", "version": 2}
    client.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": "x"}]})
    await client.request("ctx/status", {})


async def test_nothing_is_told_before_initialize(driver: Driver) -> None:
    client = driver.start_local()
    client.notify("textDocument/didOpen", {})
    with pytest.raises(RpcError):
        await client.request("ctx/status", {})
    assert logged(client) == []


async def test_a_trace_tells_what_came_and_what_was_answered(driver: Driver) -> None:
    client = await driver.start()
    await client.request("ctx/status", {})
    assert traced(client) == []
    client.notify("$/setTrace", {"value": "messages"})
    msg_id = client.post("ctx/status", {})
    await client.result(msg_id)
    with pytest.raises(RpcError):
        await client.request("ctx/slash", {"text": "/nonsense"})
    client.notify("$/setTrace", {"value": "off"})
    await client.request("ctx/status", {})
    messages = [params["message"] for params in traced(client)]
    assert f"ctx/status ({msg_id}) came" in messages
    assert any(message.startswith(f"ctx/status ({msg_id}) was answered after ") for message in messages)
    assert any(message.startswith(f"ctx/slash ({msg_id + 1}) failed after ") for message in messages)
    assert f"ctx/status ({msg_id + 2}) came" not in messages
    assert all(params.get("verbose") is None for params in traced(client))


async def test_a_verbose_trace_shows_params_but_no_secrets(driver: Driver) -> None:
    client = driver.start_local()
    params = driver.initialize_params(CAPABILITIES, token=SECRET) | {"trace": "verbose"}
    await client.request("initialize", params)
    client.notify("initialized", {})
    driver.open(client, "a.txt", "long text " * 1000)
    client.notify("workspace/didChangeConfiguration", {"settings": {"ctx": {"engine": {"token": SECRET}}}})
    await client.request("ctx/slash/complete", {"text": "/he"})
    shown = str(traced(client))
    assert '"text": "/he"' in shown
    assert "(10000 characters)" in shown
    assert SECRET not in shown


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.sampled_from(["a", "token", "text"]), inner),
    max_leaves=30,
)


@given(value=json_values)
def test_what_is_short_and_no_secret_is_shown_whole(value: Any) -> None:
    assert shortened(value) == model(value)


def model(value: Any) -> Any:
    match value:
        case dict():
            return {key: "…" if key == "token" else model(item) for key, item in value.items()}
        case list() if len(value) > 20:
            return [*map(model, value[:20]), f"… {len(value) - 20} more"]
        case list():
            return [*map(model, value)]
        case str() if len(value) > 120:
            return f"{value[:120]}… ({len(value)} characters)"
    return value
