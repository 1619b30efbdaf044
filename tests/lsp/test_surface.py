"""Code lenses, hovers and code actions: what a client without a plugin is shown of the context, and can do about it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lsp.driver import Driver, EngineSetup, edit
from tests.lsp.test_notebooks import Editor
from tests.lsp.wire_client import LocalClient, RpcError, WireClient

KINDS = {"codeActionKind": {"valueSet": ["", "quickfix", "source"]}}
CAPABILITIES: dict[str, Any] = {
    "window": {"showDocument": {"support": True}},
    "workspace": {"codeLens": {"refreshSupport": True}, "textDocumentContent": {}},
    "textDocument": {
        "codeLens": {},
        "hover": {"contentFormat": ["markdown", "plaintext"]},
        "codeAction": {"codeActionLiteralSupport": KINDS},
    },
}
BARE: dict[str, Any] = {"textDocument": {"codeLens": {}, "hover": {}, "codeAction": {}}}


async def start(driver: Driver, capabilities: Any = None, **options: Any) -> LocalClient:
    client = await driver.initialize(driver.start_local(), capabilities or CAPABILITIES, **options)
    await client.request("ctx/chunks", {})
    return client


async def lens(client: WireClient, driver: Driver, name: str) -> dict[str, Any] | None:
    """The title of the only code lens, and its command with its argument."""
    lenses = await client.request("textDocument/codeLens", {"textDocument": {"uri": driver.uri(name)}})
    if not lenses:
        return None
    (lens,) = lenses
    assert lens["range"]["start"] == lens["range"]["end"] == {"line": 0, "character": 0}
    command: dict[str, Any] = lens["command"]
    return command


async def run(client: WireClient, command: dict[str, Any]) -> Any:
    """What the client does when a lens or an action is chosen."""
    return await client.request("workspace/executeCommand", {k: command[k] for k in ("command", "arguments")})


async def hover(client: WireClient, driver: Driver, name: str, line: int = 0) -> Any:
    position = {"line": line, "character": 0}
    return await client.request("textDocument/hover", {"textDocument": {"uri": driver.uri(name)}, "position": position})


def between(start: tuple[int, int], end: tuple[int, int]) -> dict[str, Any]:
    return {key: {"line": line, "character": at} for key, (line, at) in (("start", start), ("end", end))}


async def actions(
    client: WireClient, driver: Driver, name: str, range: Any = None, diagnostics: Any = (), **context: Any
) -> dict[str, Any]:
    """By title."""
    range = range or between((0, 0), (0, 0))
    params = {"textDocument": {"uri": driver.uri(name)}, "range": range}
    context = {"diagnostics": list(diagnostics), **context}
    found = await client.request("textDocument/codeAction", {**params, "context": context})
    return {action["title"]: action for action in found}


async def settle(client: WireClient) -> None:
    """Until every document has got to the engine."""
    await client.request("ctx/plan", {"text": ""})


# -- lenses ------------------------------------------------------------------------------------------------------------


async def test_the_lens_tells_of_the_chunk_and_switches_it(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "a.py", "one two three")
    await settle(client)
    await client.command("ctx.populate")
    await client.command("ctx.context")
    found = await lens(client, driver, "a.py")
    assert found == {"title": "● 3 tokens · exact", "command": "ctx.deactivate", "arguments": [{"refs": ["a.py"]}]}
    await run(client, found)
    found = await lens(client, driver, "a.py")
    assert found is not None
    assert (found["title"], found["command"]) == ("○ 3 tokens · exact", "ctx.activate")
    await run(client, found)
    await client.command("ctx.pin", refs=["a.py"])
    found = await lens(client, driver, "a.py")
    assert found is not None
    assert found["title"] == "● 3 tokens · exact · pinned"


async def test_the_lens_of_a_file_that_is_no_chunk_loads_it(driver: Driver, engine: EngineSetup) -> None:
    client = await start(driver, documents="manual")
    driver.open(client, "a.py", "one two")
    await settle(client)
    found = await lens(client, driver, "a.py")
    assert found is not None
    assert (found["title"], found["command"]) == ("○ not in the context", "ctx.load")
    await run(client, found)
    assert await engine.texts() == {"a.py": "one two"}


async def test_there_is_no_lens_where_nothing_could_be_said(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.initialize(driver.start_local(), CAPABILITIES)
    driver.open(client, "a.py", "one two")
    assert await lens(client, driver, "a.py") is None, "it is on its way"
    await engine_ready(client, engine)
    driver.open(client, "empty.py", "")
    await settle(client)
    assert await lens(client, driver, "a.py") is not None
    assert await lens(client, driver, "empty.py") is None
    assert await lens(client, driver, "closed.py") is None


async def engine_ready(client: WireClient, engine: EngineSetup) -> None:
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    await engine.state(load_seconds=0)
    await client.request("ctx/chunks", {})


async def test_a_source_that_looks_like_a_tag_is_named_by_its_hash(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "#a#", "one two")
    await settle(client)
    found = await lens(client, driver, "#a#")
    assert found is not None
    await run(client, found)
    assert (await client.request("ctx/chunks", {}))["activeTokens"] == 0


async def test_lenses_are_refreshed_when_chunks_change(driver: Driver) -> None:
    client = await start(driver)
    seen = len(client.received)
    driver.open(client, "a.py", "one two")
    await client.wait_for(lambda message: message.get("method") == "workspace/codeLens/refresh", seen)


async def test_changes_in_quick_succession_refresh_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctx_lsp.surface.surface._QUIET_SECONDS", 3600)
    client = await start(driver)
    driver.open(client, "a.py", "one two")
    for version in range(2, 20):
        driver.change(client, "a.py", version, edit((0, 0), (0, 0), "x "))
        await client.command("ctx.context")
    refreshes = [message for message in client.received if message.get("method") == "workspace/codeLens/refresh"]
    assert len(refreshes) == 1


async def test_a_client_that_does_not_refresh_is_not_asked_to(driver: Driver) -> None:
    client = await start(driver, BARE)
    driver.open(client, "a.py", "one two")
    await settle(client)
    await client.command("ctx.deactivate", refs=["a.py"])
    asked = {message["method"] for message in client.received if "method" in message and "id" in message}
    assert asked == set()


# -- hovers ------------------------------------------------------------------------------------------------------------


async def test_the_first_line_shows_the_card(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "a.py", "one two\nthree")
    driver.open(client, "same.py", "one two\nthree")
    await client.command("ctx.populate")
    await client.command("ctx.tag", refs=["a.py"], tags=["parser"])
    (chunk,) = (await client.request("ctx/chunks", {}))["chunks"]
    contents = (await hover(client, driver, "a.py"))["contents"]
    assert contents["kind"] == "markdown"
    assert contents["value"].splitlines() == [
        "**a.py** is active in the context",
        "",
        "- 3 tokens, 3 of them warm: exact",
        "- this text has been there for less than a minute",
        f"- hash `{chunk['hash']}`",
        "- tags `#parser`",
        "- the same text as `same.py`",
    ]
    assert await hover(client, driver, "a.py", line=1) is None
    assert await hover(client, driver, "other.py") is None


async def test_a_client_without_markdown_gets_plain_text(driver: Driver) -> None:
    client = await start(driver, BARE)
    driver.open(client, "a.py", "one two")
    await settle(client)
    await client.command("ctx.deactivate", refs=["a.py"])
    contents = (await hover(client, driver, "a.py"))["contents"]
    assert contents["kind"] == "plaintext"
    assert contents["value"].startswith("a.py is not active in the context\n")
    assert not set("*`") & set(contents["value"])


# -- actions -----------------------------------------------------------------------------------------------------------

DIAGNOSTIC = {"range": between((12, 4), (12, 8)), "message": "Undefined name `foo`\nsee", "source": "ruff", "code": 821}


async def test_actions_for_a_client_that_asks_by_itself(driver: Driver) -> None:
    client = await start(driver, clientCommands=["ctx.ask"])
    driver.open(client, "a.py", "word\n" * 30)
    await settle(client)
    selected = between((1, 0), (2, 4))
    found = await actions(client, driver, "a.py", selected, [DIAGNOSTIC])
    assert {title: action.get("kind") for title, action in found.items()} == {
        "Fix: Undefined name `foo`": "quickfix",
        "Add selection to the context": None,
        "Ask about this": None,
        "Explain": None,
        "Deactivate this file in the context": "source",
    }
    assert not any("isPreferred" in action or "edit" in action for action in found.values())
    uri = driver.uri("a.py")
    ask = {title: found[title]["command"] for title in ("Ask about this", "Explain", "Fix: Undefined name `foo`")}
    assert {command["command"] for command in ask.values()} == {"ctx.ask"}
    turns = {title: command["arguments"][0] for title, command in ask.items()}
    assert turns["Ask about this"]["text"] == ""
    assert turns["Explain"]["text"] == "Explain this code."
    assert turns["Explain"]["context"] == {"files": [], "selections": [{"uri": uri, "range": selected}]}
    fix = turns["Fix: Undefined name `foo`"]
    assert fix["text"] == ("Fix this problem: line 13: Undefined name `foo`\nsee (ruff 821)\nShow the corrected code.")
    assert fix["context"]["selections"] == [{"uri": uri, "range": between((2, 0), (23, 0))}]
    assert found["Fix: Undefined name `foo`"]["diagnostics"] == [DIAGNOSTIC]
    assert (await client.request("ctx/chat", fix))["text"] == "A plain answer.", "the argument is ChatParams"


async def test_actions_for_a_bare_client_name_commands_of_the_server(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "a.py", "word\n" * 30)
    await settle(client)
    found = await actions(client, driver, "a.py", between((1, 0), (2, 4)), [DIAGNOSTIC])
    assert set(found) == {
        "Explain how to fix: Undefined name `foo`",
        "Add selection to the context",
        "Explain",
        "Deactivate this file in the context",
    }
    offered = client.capabilities["executeCommandProvider"]["commands"]
    assert {action["command"]["command"] for action in found.values()} <= set(offered)


async def test_kinds_that_were_asked_for(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "a.py", "word\n" * 30)
    await settle(client)
    for only, expected in ((["quickfix"], 1), (["source"], 1), (["source.fixAll"], 0), (["refactor"], 0), ([""], 4)):
        found = await actions(client, driver, "a.py", between((1, 0), (2, 4)), [DIAGNOSTIC], only=only)
        assert len(found) == expected, only


async def test_without_a_selection_only_the_file_is_meant(driver: Driver) -> None:
    client = await start(driver, documents="manual")
    driver.open(client, "a.py", "some words")
    await settle(client)
    found = await actions(client, driver, "a.py")
    assert list(found) == ["Add this file to the context"]
    await run(client, found["Add this file to the context"]["command"])
    assert list(await actions(client, driver, "a.py")) == ["Deactivate this file in the context"]
    assert await actions(client, driver, "never-opened.py", between((0, 0), (0, 4))) == {}


async def test_a_selection_of_any_document_can_be_added(driver: Driver, engine: EngineSetup) -> None:
    """The output of a program is no chunk by itself, but the user may want some of it."""
    client = await start(driver)
    document = {"uri": "output:tests", "languageId": "log", "version": 1, "text": "FAILED here"}
    client.notify("textDocument/didOpen", {"textDocument": document})
    params = {"textDocument": {"uri": "output:tests"}, "range": between((0, 0), (0, 6)), "context": {"diagnostics": []}}
    add, explain = await client.request("textDocument/codeAction", params)
    assert explain["title"] == "Explain"
    await run(client, add["command"])
    assert await engine.texts() == {"output:tests:1": "FAILED"}


async def test_a_client_without_literals_gets_commands(driver: Driver) -> None:
    client = await start(driver, BARE)
    driver.open(client, "a.py", "some words")
    await settle(client)
    found = await actions(client, driver, "a.py", between((0, 0), (0, 4)))
    assert {command["command"] for command in found.values()} == {"ctx.addSelection", "ctx.explain", "ctx.deactivate"}


# -- commands ----------------------------------------------------------------------------------------------------------


async def test_a_selection_becomes_a_chunk(driver: Driver, engine: EngineSetup) -> None:
    client = await start(driver)
    driver.open(client, "a.py", "😀 one\ntwo three\nfour")
    await settle(client)
    selected = between((0, 3), (1, 3))
    found = await actions(client, driver, "a.py", selected)
    data = (await run(client, found["Add selection to the context"]["command"]))["data"]
    assert (data["kind"], data["name"], data["active"], data["tokens"]) == ("selection", "a.py:1-2", True, 2)
    named = await client.command("ctx.addSelection", uri=driver.uri("a.py"), range=selected, name="the pair")
    assert named["sources"] == ["a.py:1-2", "the pair"]
    assert (await engine.texts())["the pair"] == "one\ntwo"
    with pytest.raises(RpcError) as caught:
        await client.command("ctx.addSelection", uri=driver.uri("a.py"), range=between((0, 0), (0, 0)))
    assert caught.value.data["code"] == "unusable_selection"


async def test_an_explanation_is_shown_as_a_document(driver: Driver, engine: EngineSetup) -> None:
    client = await start(driver)
    client.replies["window/showDocument"] = lambda params: {"success": True}
    driver.open(client, "a.py", "word\n" * 30)
    found = await actions(client, driver, "a.py", between((0, 0), (0, 4)), [DIAGNOSTIC])
    result = await run(client, found["Explain"]["command"])
    assert (result["markdown"], result["data"]["text"]) == ("A plain answer.", "A plain answer.")
    shown = await client.wait_notification("window/showDocument")
    content = await client.request("workspace/textDocumentContent", {"uri": shown["uri"]})
    assert content == {"text": "A plain answer."}
    assert client.notifications("window/showMessage") == []
    await run(client, found["Explain how to fix: Undefined name `foo`"]["command"])
    *_, record = (await engine.state())["chats"]
    (message,) = record["body"]["messages"]
    assert message["content"].endswith("how to fix it: line 13: Undefined name `foo`\nsee (ruff 821)")


async def test_an_explanation_is_a_message_where_documents_cannot_be_shown(driver: Driver) -> None:
    client = await start(driver, BARE)
    driver.open(client, "a.py", "some words")
    await client.command("ctx.explain", uri=driver.uri("a.py"), range=between((0, 0), (0, 4)))
    (message,) = client.notifications("window/showMessage")
    assert message["message"] == "A plain answer."
    assert not [message for message in client.received if message.get("method") == "window/showDocument"]


# -- what was left out -------------------------------------------------------------------------------------------------


async def test_the_lens_says_why_a_document_was_left_out(driver: Driver, engine: EngineSetup) -> None:
    client = await start(driver)
    driver.open(client, ".env", "TOKEN=1")
    driver.open(client, "large.py", "word " * 900)
    await settle(client)
    found = await lens(client, driver, ".env")
    assert found is not None
    assert (found["title"].startswith("○ "), "load it by name" in found["title"]) == (True, True)
    await run(client, found)
    assert (await engine.texts())[".env"] == "TOKEN=1"
    found = await lens(client, driver, "large.py")
    assert found is not None
    assert found["title"].startswith("○ 900 tokens · ")
    assert "room" in found["title"]


async def test_a_cell_of_a_notebook_has_a_lens_of_its_own(driver: Driver) -> None:
    notebook = Editor(driver, await start(driver))
    notebook.open(("W0", "intro", "# Title"), ("W1", None, "x = 1"))
    client = notebook.client
    await settle(client)
    params = {"textDocument": {"uri": notebook.cell_uri("W1")}}
    (found,) = await client.request("textDocument/codeLens", params)
    assert found["command"]["title"].startswith("● 3 tokens")
    await run(client, found["command"])
    chunks = (await client.request("ctx/chunks", {}))["chunks"]
    assert {chunk["name"]: chunk["active"] for chunk in chunks} == {
        "nb/work.ipynb#cell-intro": True,
        "nb/work.ipynb#cell-1": False,
    }
