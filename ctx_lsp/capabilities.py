"""What the server offers in `initialize`: nothing that this client can't take, and what pygls doesn't offer by itself.

Knows both sides' capabilities; knows nothing of handlers.
"""

from __future__ import annotations

from typing import Any

from lsprotocol import types
from pygls.capabilities import get_capability

from ctx_lsp import protocol
from ctx_lsp.client.content_uris import SCHEME
from ctx_lsp.surface import actions

NOTEBOOKS = types.NotebookDocumentSyncOptions([types.NotebookDocumentFilterWithNotebook(notebook="*")], save=True)

_EVERY_FILE = types.FileOperationRegistrationOptions(
    [types.FileOperationFilter(types.FileOperationPattern(glob="**/*"), scheme="file")]
)

OPTIONS: dict[str, Any] = {
    types.TEXT_DOCUMENT_CODE_ACTION: types.CodeActionOptions(code_action_kinds=list(actions.KINDS)),
    types.WORKSPACE_DID_CREATE_FILES: _EVERY_FILE,
    types.WORKSPACE_DID_RENAME_FILES: _EVERY_FILE,
    types.WORKSPACE_DID_DELETE_FILES: _EVERY_FILE,
}
"""Of features, by method, where there is something to say."""

_NEEDS = {
    "code_lens_provider": "text_document.code_lens",
    "hover_provider": "text_document.hover",
    "code_action_provider": "text_document.code_action",
}


def tailor(offered: types.ServerCapabilities, client: types.ClientCapabilities) -> None:
    """Takes away and adds, given what pygls offers."""
    offered.experimental = protocol.EXPERIMENTAL
    for provider, need in _NEEDS.items():
        if get_capability(client, need) is None:
            setattr(offered, provider, None)
    if offered.execute_command_provider is not None:
        offered.execute_command_provider.work_done_progress = True
    if get_capability(client, "workspace.text_document_content") is not None:
        offered.workspace = offered.workspace or types.WorkspaceOptions()
        offered.workspace.text_document_content = types.TextDocumentContentOptions([SCHEME])
