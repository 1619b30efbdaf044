"""`ctx:` documents: chunks and the composed prompt, read, shown, and refreshed when they change."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.client.content_uris import (
    AnswerDocument,
    PromptDocument,
    UnknownDocumentError,
    answer_uri,
    parse,
    prompt_uri,
)
from tests.lsp.driver import Driver, EngineSetup, chat
from tests.lsp.test_surface import BARE, CAPABILITIES, start
from tests.lsp.wire_client import RpcError, WireClient


async def content(client: WireClient, uri: str) -> str:
    result = await client.request("ctx/content", {"uri": uri})
    shown = await client.request("workspace/textDocumentContent", {"uri": uri})
    assert shown == {"text": result["text"]}
    text: str = result["text"]
    return text


def refreshed(client: WireClient) -> list[str]:
    method = "workspace/textDocumentContent/refresh"
    return [message["params"]["uri"] for message in client.received if message.get("method") == method]


async def test_the_text_of_a_chunk(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "src/a b.py", "ünï\ncode\n")
    await client.request("ctx/chat", chat())
    file, answer = (await client.request("ctx/chunks", {}))["chunks"]
    uri = f"ctx:/chunk/{file['hash']}/{quote(file['name'])}"
    assert await client.request("ctx/content", {"uri": uri}) == {"text": "ünï\ncode\n", "languageId": "python"}
    assert await content(client, f"ctx:/chunk/{answer['hash']}/x") == "A plain answer."


async def test_a_chunk_that_the_engine_alone_knows(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "a", "one")
    driver.open(client, "b", "two")
    composed = await client.command("ctx.compose", refs=["a", "b"], name="both")
    assert (await content(client, f"ctx:/chunk/{composed['hash']}/both")).startswith("onetwo")


async def test_the_prompt_as_the_model_would_see_it(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "a.py", "some code")
    assert await content(client, "ctx:/prompt/default") == "<head>|some code|"
    assert await content(client, "ctx:/prompt/default?What%20is%20this%3F") == "<head>|some code|What is this?"
    await client.request("ctx/chat", chat("Why?", conversationId="a/b"))
    assert await content(client, "ctx:/prompt/a%2Fb?So") == "<head>|some code|Why?|A plain answer.|So"
    assert await content(client, "ctx:/prompt/default") == "<head>|some code|"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "ctx:",
        "ctx:/",
        "ctx:/chunk",
        "ctx:/chunk/",
        "ctx:/chunk/abcdef/a.py",
        "ctx:/chunk/../a.py",
        "ctx:/nothing/x",
        "ctx:/answer/x.md",
        "file:///a.py",
        "ctx:/prompt/",
    ],
)
async def test_other_uris_are_refused(driver: Driver, uri: str) -> None:
    client = await start(driver)
    for method in ("ctx/content", "workspace/textDocumentContent"):
        with pytest.raises(RpcError) as caught:
            await client.request(method, {"uri": uri})
        assert (caught.value.code, caught.value.data["code"]) == (-32803, "unknown_document")
        assert caught.value.data["uri"] == uri


async def test_a_shown_prompt_is_refreshed_when_it_changes_and_only_then(driver: Driver, engine: EngineSetup) -> None:
    client = await start(driver)
    driver.open(client, "a.py", "some code")
    await client.request("ctx/content", {"uri": "ctx:/prompt/default"})
    await client.command("ctx.deactivate", refs=["a.py"])
    assert refreshed(client) == [], "nobody shows it"
    await client.request("workspace/textDocumentContent", {"uri": "ctx:/prompt/default"})
    await client.command("ctx.activate", refs=["a.py"])
    await client.wait_for(lambda message: message.get("method") == "workspace/textDocumentContent/refresh")
    assert set(refreshed(client)) == {"ctx:/prompt/default"}
    client.notify("textDocument/didClose", {"textDocument": {"uri": "ctx:/prompt/default"}})
    count = len(refreshed(client))
    await client.command("ctx.deactivate", refs=["a.py"])
    await client.request("workspace/textDocumentContent", {"uri": "ctx:/prompt/default"})
    await client.request("ctx/chat", chat())
    await client.wait_for(
        lambda message: (
            message.get("method") == "workspace/textDocumentContent/refresh" and len(refreshed(client)) == count + 1
        )
    )


async def test_showing_a_document(driver: Driver) -> None:
    client = await start(driver)
    driver.open(client, "a.md", "a ```fence```")
    client.replies["window/showDocument"] = lambda params: {"success": True}
    assert await client.command("ctx.show", uri="ctx:/prompt/default") == {"shown": True}
    assert client.notifications("window/showDocument") == [{"uri": "ctx:/prompt/default"}]
    client.replies["window/showDocument"] = lambda params: {"success": False}
    assert await client.command("ctx.show", uri="ctx:/prompt/default") == {"shown": False}
    with pytest.raises(RpcError):
        await client.command("ctx.show", uri="ctx:/nothing/there")


async def test_a_slash_command_shows_the_prompt(driver: Driver) -> None:
    client = await start(driver, BARE)
    driver.open(client, "a.md", "text")
    result = await client.request("ctx/slash", {"text": "/prompt What is this?"})
    assert result["markdown"] == "```plaintext\n<head>|text|What is this?\n```"
    await client.request("ctx/chat", chat("Why?", conversationId="a/b"))
    result = await client.request("ctx/slash", {"text": "/prompt", "conversationId": "a/b"})
    assert result["markdown"] == "```plaintext\n<head>|text|Why?|A plain answer.|\n```"


async def test_a_client_that_cannot_show_it_gets_its_text(driver: Driver) -> None:
    client = await start(driver, BARE)
    driver.open(client, "a.md", "a ```fence```")
    params = {"command": "ctx.show", "arguments": [{"uri": "ctx:/prompt/default"}]}
    result = await client.request("workspace/executeCommand", params)
    assert result == {"markdown": "````plaintext\n<head>|a ```fence```|\n````", "data": {"shown": False}}


async def test_what_is_advertised(driver: Driver) -> None:
    client = await start(driver)
    assert client.capabilities["workspace"]["textDocumentContent"] == {"schemes": ["ctx"]}
    assert client.capabilities["executeCommandProvider"]["workDoneProgress"] is True
    assert client.capabilities["codeActionProvider"]["codeActionKinds"] == ["quickfix", "source"]
    assert client.capabilities["hoverProvider"] is True
    assert client.capabilities["codeLensProvider"] == {"resolveProvider": False}


async def test_a_client_that_can_do_nothing_is_offered_nothing(driver: Driver) -> None:
    client = await start(driver, {"window": {}})
    assert not {"codeLensProvider", "hoverProvider", "codeActionProvider"} & set(client.capabilities)
    assert "textDocumentContent" not in client.capabilities["workspace"]
    assert CAPABILITIES["textDocument"].keys() == {"codeLens", "hover", "codeAction"}


encodable = st.characters(exclude_categories=["Cs"])


@given(id=st.text(encodable, min_size=1), question=st.text(encodable))
def test_what_is_spelled_is_read(id: str, question: str) -> None:
    assert parse(prompt_uri(id, question)) == PromptDocument(id, question)
    assert parse(answer_uri(id)) == AnswerDocument(id)


@given(uri=st.one_of(st.text(), st.text().map("ctx:/".__add__), st.text().map("ctx://[".__add__)))
def test_any_uri_is_read_or_refused(uri: str) -> None:
    try:
        document = parse(uri)
    except UnknownDocumentError:
        return
    assert uri.startswith("ctx:/")
    assert parse(uri) == document
