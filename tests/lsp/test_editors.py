"""Sessions as recorded editors open them: what they can do, they are told; nothing breaks the specification."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lsprotocol import types
from pytest_lsp import LanguageClient, LspSpecificationWarning, client_capabilities, make_test_lsp_client

from ctx_lsp import protocol, wire
from tests.lsp.driver import Driver, EngineSetup, chat
from tests.lsp.wire_client import SERVER

EDITORS = ("visual_studio_code", "neovim@0.11", "neovim@0.10", "neovim@0.6", "emacs")


@pytest.fixture
async def client(engine: EngineSetup) -> AsyncIterator[LanguageClient]:
    client = make_test_lsp_client()
    client.feature(types.CLIENT_REGISTER_CAPABILITY)(lambda params: None)
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
        path = driver.write("a.py", "x = 1\n")
        document = types.TextDocumentItem(path.as_uri(), "python", 1, "x = 1\n")
        client.text_document_did_open(types.DidOpenTextDocumentParams(document))
        answer = await client.protocol.send_request_async(protocol.CHAT, chat())
        assert answer.text == "A plain answer."
        listed: Any = await client.workspace_execute_command_async(
            types.ExecuteCommandParams(protocol.CONTEXT_COMMAND, [wire.to_json(protocol.NoParams())])
        )
        assert "a.py" in listed["markdown"]
        client.text_document_did_close(types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(path.as_uri())))
        await client.shutdown_session()
    assert client.error is None
