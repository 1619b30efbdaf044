"""What is selected in a document: its text as the editor has it, what it is called, and the chunk it becomes.

Knows documents, files and chunks; knows nothing of how a selection was asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from lsprotocol import types

from ctx_lsp import wire
from ctx_lsp.client.text_sync import line_count, offset_at
from ctx_lsp.engines.client import EngineClient
from ctx_lsp.protocol import ChunkInfo, Position, Selection
from ctx_lsp.session import Session
from ctx_lsp.workspace.shelf import encodable
from ctx_lsp.workspace.sources import path_of
from ctx_lsp.workspace.workspace_files import UnusableFileError, read_text
from engine.errors import EngineError


class UnusableSelectionError(EngineError):
    """Nothing is selected, or the document can't be read; `data["uri"]` says which."""

    code = "unusable_selection"
    status = 400


@dataclass(frozen=True)
class SelectedText:
    """A selection that was read.

    Attributes:
        document: what the document is called as a source.
        first, last: its lines, counted from 1 as people do.
    """

    document: str
    first: int
    last: int
    text: str

    @property
    def source(self) -> str:
        """What its chunk is called, e.g. ``src/a.py:3-7``."""
        lines = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.document}:{lines}"


async def read_selection(session: Session, selection: Selection) -> SelectedText:
    """The selected text. Raises WireError for positions that can't be, UnusableSelectionError."""
    start, end = (_position(position) for position in (selection.range.start, selection.range.end))
    text = await read_document(session, selection.uri)
    first, last = (offset_at(text, position, session.encoding) for position in (start, end))
    selected = encodable(text[first:last])
    document = session.sources.of_uri(selection.uri)
    if not selected:
        raise UnusableSelectionError(f"nothing is selected in {document}", uri=selection.uri)
    line = line_count(text[:first] + "|")
    return SelectedText(document, line, line + line_count(selected) - 1, selected)


def _position(position: Position) -> types.Position:
    """Raises WireError for what no position can be."""
    try:
        return types.Position(position.line, position.character)
    except ValueError:
        raise wire.WireError(["range: expected positions from 0 to 2147483647"]) from None


async def read_document(session: Session, uri: str) -> str:
    """The client's text of a document while it is open, else the file's; the user is at it now.

    Raises UnusableSelectionError.
    """
    session.documents.touch(uri)
    document, path = session.documents.find(uri), path_of(uri)
    if document is not None:
        return document.text
    if path is None:
        raise UnusableSelectionError(f"{uri} is neither open nor a file", uri=uri)
    try:
        return await asyncio.to_thread(read_text, path)
    except UnusableFileError as error:
        raise UnusableSelectionError(f"{path} can't be read: {error}", uri=uri) from None


async def add_selection(
    session: Session, client: EngineClient, selection: Selection, name: str | None = None, **fields: Any
) -> ChunkInfo:
    """Makes a selection a chunk, called `name` or by its document and lines; `fields` as `RemoteContext.put` has them.

    It keeps its text whatever becomes of the document. Raises what `read_selection` raises, and EngineError.
    """
    selected = await read_selection(session, selection)
    return await session.context.put(client, name or selected.source, selected.text, kind="selection", **fields)
