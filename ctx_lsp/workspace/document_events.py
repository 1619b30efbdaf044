"""What an editor tells of documents, notebooks and files: which notification concerns whom. Wiring only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lsprotocol import types

from ctx_lsp import protocol
from ctx_lsp.session import Session
from ctx_lsp.workspace.sources import path_of


class DocumentEvents:
    """The notifications of one client. `session` is asked for when one comes."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session

    def table(self) -> dict[str, Callable[[Any], Any]]:
        """Handlers by method."""
        return {
            types.TEXT_DOCUMENT_DID_OPEN: lambda params: self._session().documents.open(params.text_document),
            types.TEXT_DOCUMENT_DID_CHANGE: lambda params: self._session().documents.change(params),
            types.TEXT_DOCUMENT_DID_SAVE: lambda params: self._session().documents.save(params.text_document.uri),
            types.NOTEBOOK_DOCUMENT_DID_OPEN: lambda params: self._session().workspace.notebooks.open(params),
            types.NOTEBOOK_DOCUMENT_DID_CHANGE: lambda params: self._session().workspace.notebooks.change(params),
            types.NOTEBOOK_DOCUMENT_DID_SAVE: lambda params: self._session().workspace.notebooks.save(params),
            types.NOTEBOOK_DOCUMENT_DID_CLOSE: lambda params: self._session().workspace.notebooks.close(params),
            types.WORKSPACE_DID_CHANGE_WATCHED_FILES: lambda params: self._changed(params.changes),
            types.WORKSPACE_DID_CREATE_FILES: lambda params: self._changed(params.files),
            types.WORKSPACE_DID_DELETE_FILES: lambda params: self._changed(params.files),
            types.WORKSPACE_DID_RENAME_FILES: lambda params: self._renamed(params.files),
            protocol.VISIBLE_EDITORS: lambda params: self._session().documents.show(params.uris),
        }

    def _changed(self, files: list[Any]) -> None:
        self._session().workspace.files_changed(path for file in files if (path := path_of(file.uri)) is not None)

    def _renamed(self, files: list[types.FileRename]) -> None:
        for file in files:
            old, new = path_of(file.old_uri), path_of(file.new_uri)
            if isinstance(old, Path) and isinstance(new, Path):
                self._session().workspace.renamed(old, new)
