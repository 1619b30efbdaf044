"""`ctx/chat/apply`: from a code block to an edit that the client can carry out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lsp.driver import Driver, EngineSetup, chat, edit
from tests.lsp.wire_client import LocalClient, RpcError, WireClient

ALL: dict[str, Any] = {
    "workspace": {
        "workspaceEdit": {
            "documentChanges": True,
            "resourceOperations": ["create", "rename", "delete"],
            "changeAnnotationSupport": {},
        }
    }
}
TEXT = "import os\n\n\ndef f():\n    return 1\n"
BLOCK = "def f():\n    return 2\n"


async def start(driver: Driver, capabilities: dict[str, Any] = ALL, encoding: str = "utf-16") -> LocalClient:
    capabilities = {**capabilities, "general": {"positionEncodings": [encoding]}}
    return await driver.initialize(driver.start_local(), capabilities)


async def refused(client: WireClient, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/chat/apply", params)
    return caught.value


def span(start: tuple[int, int], end: tuple[int, int]) -> dict[str, Any]:
    return {key: {"line": line, "character": at} for key, (line, at) in (("start", start), ("end", end))}


async def test_an_edit_of_an_open_document_is_of_its_version(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "src/a.py", TEXT)
    driver.change(client, "src/a.py", 7, edit((0, 0), (0, 0), "# unsaved\n"))
    result = await client.request("ctx/chat/apply", {"text": BLOCK, "path": "src/a.py"})
    assert (result["uri"], result["how"]) == (driver.uri("src/a.py"), "exact")
    (change,) = result["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": driver.uri("src/a.py"), "version": 7}
    (text_edit,) = change["edits"]
    assert text_edit["newText"] == "    return 2\n"
    assert text_edit["range"] == span((5, 0), (6, 0))
    annotation = result["edit"]["changeAnnotations"][text_edit["annotationId"]]
    assert annotation == {"label": result["summary"], "needsConfirmation": False}
    assert "def f" in result["summary"]
    assert "src/a.py" in result["summary"]


async def test_an_edit_of_a_file_that_is_not_open(driver: Driver) -> None:
    client = await start(driver)
    driver.write("a.py", TEXT)
    result = await client.request("ctx/chat/apply", {"text": BLOCK, "uri": driver.uri("a.py")})
    (change,) = result["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": driver.uri("a.py"), "version": None}


async def test_a_guess_is_to_be_confirmed(driver: Driver) -> None:
    client = await start(driver)
    driver.write("a.py", "class C:\n    def f(self):\n        return 1\n")
    result = await client.request("ctx/chat/apply", {"text": "def f(self):\n    return 2\n", "path": "a.py"})
    assert result["how"] == "fuzzy"
    assert [note["needsConfirmation"] for note in result["edit"]["changeAnnotations"].values()] == [True]


@pytest.mark.parametrize("content", [None, ""])
async def test_a_file_that_is_not_there_is_created(driver: Driver, content: str | None) -> None:
    client = await start(driver)
    if content is not None:
        driver.write("new/b.py", content)
    result = await client.request("ctx/chat/apply", {"text": "# new/b.py\nx = 1\n", "path": "new/b.py"})
    *created, change = result["edit"]["documentChanges"]
    assert result["how"] == ("create" if content is None else "exact")
    assert [item["kind"] for item in created] == (["create"] if content is None else [])
    assert [(item["newText"], item["range"]) for item in change["edits"]] == [("x = 1\n", span((0, 0), (0, 0)))]


async def test_a_client_gets_no_more_than_it_can_take(driver: Driver) -> None:
    client = await start(driver, {})
    driver.open(client, "a.py", TEXT)
    for path in ("a.py", "new.py"):
        result = await client.request("ctx/chat/apply", {"text": BLOCK, "path": path})
        assert list(result["edit"]) == ["changes"]
        (edits,) = result["edit"]["changes"].values()
        assert [set(item) for item in edits] == [{"range", "newText"}]
    plain = await start(driver, {"workspace": {"workspaceEdit": {"documentChanges": True}}})
    result = await plain.request("ctx/chat/apply", {"text": BLOCK, "path": "new.py"})
    assert list(result["edit"]) == ["documentChanges"]
    assert [set(item) for item in result["edit"]["documentChanges"]] == [{"textDocument", "edits"}]


@pytest.mark.parametrize(("encoding", "width"), [("utf-8", 4), ("utf-16", 2), ("utf-32", 1)])
async def test_positions_count_as_agreed(driver: Driver, encoding: str, width: int) -> None:
    client = await start(driver, ALL, encoding)
    driver.write("a.txt", "one\r\ntwo😀")
    block = "<<<<<<< SEARCH\ntwo😀\n=======\nthree\n>>>>>>> REPLACE\n"
    result = await client.request("ctx/chat/apply", {"text": block, "path": "a.txt"})
    (text_edit,) = result["edit"]["documentChanges"][0]["edits"]
    assert (text_edit["range"], text_edit["newText"]) == (span((1, 0), (1, 3 + width)), "three")


async def test_a_block_of_an_answer_goes_where_the_model_said(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=["First:\n```\nx\n```\n", "In `a.py`:\n\n```py\n", BLOCK, "```\n"])
    client = await start(driver)
    driver.write("src/a.py", TEXT)
    driver.write("deep/er/b.py", TEXT)
    await client.request("ctx/chat", chat("?", "t1", conversationId="c"))
    turn = {"conversationId": "c", "turnId": "t1"}
    result = await client.request("ctx/chat/apply", {**turn, "block": 1})
    assert (result["uri"], result["how"]) == (driver.uri("src/a.py"), "exact"), "the only file of that name"
    result = await client.request("ctx/chat/apply", {**turn, "block": 1, "path": "er/b.py"})
    assert result["uri"] == driver.uri("deep/er/b.py")
    assert "names no file" in (await refused(client, **turn, block=0)).message
    assert (await refused(client, **turn, block=2)).code == -32602
    assert (await refused(client, conversationId="c", turnId="t9")).data["code"] == "unknown_turn"
    assert (await refused(client, conversationId="d", turnId="t1")).data["code"] == "unknown_conversation"
    assert (await refused(client, path="src/a.py")).code == -32602


async def test_what_is_loaded_comes_before_what_is_not(driver: Driver) -> None:
    client = await start(driver)
    driver.write("x/same.py", TEXT)
    driver.write("y/same.py", TEXT)
    await client.command("ctx.load", paths=["y"])
    result = await client.request("ctx/chat/apply", {"text": BLOCK, "path": "same.py"})
    assert result["uri"] == driver.uri("y/same.py")


async def test_a_model_does_not_write_outside_of_the_workspace(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(answer=["```sh ../outside.sh\n", "rm\n", "```\n"])
    client = await start(driver)
    await client.request("ctx/chat", chat("?", "t1"))
    error = await refused(client, turnId="t1")
    assert error.data["code"] == "apply_unsure"
    assert "outside of the workspace" in error.message
    result = await client.request("ctx/chat/apply", {"turnId": "t1", "path": "../outside.sh"})
    assert result["how"] == "create", "the user may"


async def test_unsure_is_said_and_nothing_happens(driver: Driver) -> None:
    client = await start(driver)
    driver.write("a.py", TEXT)
    driver.write("x/same.py", TEXT)
    driver.write("y/same.py", TEXT)
    (driver.workspace / "binary").write_bytes(b"\0")
    for params, reason in (
        ({"text": "def g():\n    pass\n", "path": "a.py"}, "nothing in the text is like the block"),
        ({"text": BLOCK, "path": "same.py"}, "several files are called same.py"),
        ({"text": BLOCK, "path": "binary"}, "binary"),
        ({"text": BLOCK, "path": "."}, "not a regular file"),
        ({"text": BLOCK, "uri": "git:/a.py"}, "neither open nor a file"),
        ({"text": "# ... existing code ...\nx\n", "path": "new.py"}, "leaves something out"),
    ):
        error = await refused(client, **params)
        assert (error.code, error.data["code"]) == (-32803, "apply_unsure")
        assert reason in error.message
