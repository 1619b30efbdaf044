"""Sessions as recorded editors open them: what they can do, they are told; nothing breaks the specification."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lsprotocol import types
from pytest_lsp import LanguageClient, LspSpecificationWarning, client_capabilities, make_test_lsp_client

from ctx_lsp import protocol
from tests.lsp.driver import Driver, EngineSetup, chat
from tests.lsp.wire_client import SERVER

TEXT = "x = 1\n"
EDITORS = ("visual_studio_code", "neovim@0.11", "neovim@0.10", "neovim@0.6", "emacs")


@pytest.fixture
async def client(engine: EngineSetup) -> AsyncIterator[LanguageClient]:
    client = make_test_lsp_client()
    client.feature(types.CLIENT_REGISTER_CAPABILITY)(lambda params: None)
    client.feature(types.WORKSPACE_CODE_LENS_REFRESH)(lambda *_: None)
    await client.start_io(*SERVER)
    yield client
    if not client._stop_event.is_set():
        client.exit(None)  # a test that failed halfway would wait for the server forever
    await client.stop()


@pytest.mark.parametrize("editor", EDITORS)
async def test_a_whole_session(driver: Driver, engine: EngineSetup, client: LanguageClient, editor: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LspSpecificationWarning)
        folder = types.WorkspaceFolder(driver.workspace.as_uri(), "project")
        params = types.InitializeParams(
            capabilities=client_capabilities(editor), root_uri=folder.uri, workspace_folders=[folder]
        )
        result = await client.initialize_session(params)
        assert result.server_info is not None
        assert result.server_info.name == "ctx-lsp"
        offered, text = result.capabilities, params.capabilities.text_document
        assert text is not None
        assert (offered.code_lens_provider is None) == (text.code_lens is None)
        assert offered.hover_provider
        assert isinstance(offered.code_action_provider, types.CodeActionOptions)
        path = driver.write("a.py", TEXT)
        uri = path.as_uri()
        client.text_document_did_open(types.DidOpenTextDocumentParams(types.TextDocumentItem(uri, "python", 1, TEXT)))
        answer = await client.protocol.send_request_async(protocol.CHAT, chat())
        assert answer.text == "A plain answer."
        listed = await command(client, protocol.CONTEXT_COMMAND, {})
        assert "a.py" in listed["markdown"]
        if text.code_lens is not None:
            await try_lens(client, uri)
        await try_hover(client, uri)
        await try_actions(client, uri, text.code_action)
        client.text_document_did_close(types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri)))
        await client.shutdown_session()
    assert client.error is None


async def try_lens(client: LanguageClient, uri: str) -> None:
    """It says what it does, and does it."""
    params = types.CodeLensParams(types.TextDocumentIdentifier(uri))
    for dot in "●○●":
        (lens,) = await client.text_document_code_lens_async(params) or ()
        assert lens.command is not None
        assert lens.command.title.startswith(f"{dot} 3 tokens")
        (argument,) = lens.command.arguments or ()
        await command(client, lens.command.command, argument)


async def try_hover(client: LanguageClient, uri: str) -> None:
    params = types.HoverParams(types.TextDocumentIdentifier(uri), types.Position(0, 0))
    hover = await client.text_document_hover_async(params)
    assert hover is not None
    assert isinstance(hover.contents, types.MarkupContent)
    assert hover.contents.kind is types.MarkupKind.Markdown
    params = types.HoverParams(types.TextDocumentIdentifier(uri), types.Position(1, 0))
    assert await client.text_document_hover_async(params) is None


async def try_actions(client: LanguageClient, uri: str, can: types.CodeActionClientCapabilities | None) -> None:
    """Those that are offered are of kinds that the editor knows; choosing each works."""
    assert can is not None
    assert can.code_action_literal_support is not None
    known = can.code_action_literal_support.code_action_kind.value_set
    selected = types.Range(types.Position(0, 0), types.Position(1, 0))
    diagnostic = types.Diagnostic(types.Range(types.Position(1, 0), types.Position(1, 1)), "wrong")
    params = types.CodeActionParams(
        types.TextDocumentIdentifier(uri), selected, types.CodeActionContext(diagnostics=[diagnostic])
    )
    with pytest.MonkeyPatch.context() as patch:  # lsprotocol takes a code action that has a command for a command
        patch.setattr(client.protocol, "get_result_type", lambda _: None)
        actions = plain(await client.text_document_code_action_async(params))
    assert len(actions) == 4
    for action in actions:
        assert action.get("kind") in (None, *known)
        (argument,) = action["command"]["arguments"]
        await command(client, action["command"]["command"], argument)
    assert len(client.messages) == 2, "without documents of the server's own, both explanations are messages"


async def command(client: LanguageClient, name: str, argument: Any) -> Any:
    arguments = [plain(argument)]
    return await client.workspace_execute_command_async(types.ExecuteCommandParams(name, arguments=arguments))


def plain(value: Any) -> Any:
    """What pygls has made objects of, as JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
