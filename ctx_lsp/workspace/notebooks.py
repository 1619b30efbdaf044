"""Notebook documents: each cell is a document of its own, called by its notebook and what it is in there.

Knows LSP's notebook synchronization; what becomes of a cell's text is the documents' business.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from lsprotocol import types

from ctx_lsp.workspace.documents import Documents
from ctx_lsp.workspace.sources import SourceNames

logger = logging.getLogger(__name__)


@dataclass
class Notebook:
    """An open notebook. `names` has what each cell is called, by its URI; a name is never given twice."""

    source: str
    names: dict[str, str] = field(default_factory=dict)
    numbered: int = 0

    def name(self, cell: types.NotebookCell) -> str:
        """By the id that it keeps in its file; else by a number, which stays with it wherever it is moved."""
        if cell.document not in self.names:
            id = _id(cell)
            while id is None or id in self.names.values():
                self.numbered += 1
                id = str(self.numbered)
            self.names[cell.document] = id
        return f"{self.source}#cell-{self.names[cell.document]}"


class Notebooks:
    """The open notebooks by URI."""

    def __init__(self, documents: Documents, sources: SourceNames) -> None:
        self._documents = documents
        self._sources = sources
        self._open: dict[str, Notebook] = {}

    def open(self, params: types.DidOpenNotebookDocumentParams) -> None:
        notebook = params.notebook_document
        self._open[notebook.uri] = Notebook(self._sources.of_uri(notebook.uri))
        self._open_cells(notebook.uri, notebook.cells, params.cell_text_documents)

    def change(self, params: types.DidChangeNotebookDocumentParams) -> None:
        uri, cells = params.notebook_document.uri, params.change.cells
        if uri not in self._open:
            logger.warning("a change to %s, which is not open", uri)
            return
        if cells is None:
            return
        if cells.structure is not None:
            self._open_cells(uri, cells.structure.array.cells or (), cells.structure.did_open or ())
            for closed in cells.structure.did_close or ():
                self._documents.close(closed.uri)
        for content in cells.text_content or ():
            self._documents.change(types.DidChangeTextDocumentParams(content.document, content.changes))

    def save(self, params: types.DidSaveNotebookDocumentParams) -> None:
        notebook = self._open.get(params.notebook_document.uri)
        for cell in notebook.names if notebook is not None else ():
            self._documents.save(cell)

    def close(self, params: types.DidCloseNotebookDocumentParams) -> None:
        self._open.pop(params.notebook_document.uri, None)
        for cell in params.cell_text_documents:
            self._documents.close(cell.uri)

    def _open_cells(
        self, uri: str, cells: Iterable[types.NotebookCell], documents: Iterable[types.TextDocumentItem]
    ) -> None:
        names = {cell.document: self._open[uri].name(cell) for cell in cells}
        for document in documents:
            if document.uri in names:
                self._documents.open_as(names[document.uri], document, home=uri)


def _id(cell: types.NotebookCell) -> str | None:
    """What a Jupyter notebook calls a cell."""
    metadata = cell.metadata
    id = metadata.get("id") if isinstance(metadata, dict) else getattr(metadata, "id", None)
    return id if isinstance(id, str) and id else None
