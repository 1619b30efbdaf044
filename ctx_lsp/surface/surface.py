"""What a client without a plugin sees: code lenses, hovers, code actions and `ctx:` documents, and their refreshes.

Knows which document, chunk and client are meant; what is said of them is in `lenses`, `hovers` and `actions`.
"""

from __future__ import annotations

import time
from pathlib import Path

from lsprotocol import types

from ctx_lsp import protocol
from ctx_lsp.chat.chat import Chats
from ctx_lsp.client.announcement import Announcement
from ctx_lsp.protocol import ChunkInfo, ChunksResult, Position, Range, Selection
from ctx_lsp.session import Session
from ctx_lsp.surface import actions, hovers, lenses
from ctx_lsp.surface.actions import Place
from ctx_lsp.surface.content import Contents
from ctx_lsp.surface.document_commands import DocumentCommands
from ctx_lsp.workspace.sources import path_of

_QUIET_SECONDS = 0.5


class Surface:
    """Answers from what is known already: no request here waits for the engine.

    Invariant: `_since` says for each chunk of the context when it was first seen, by hash.

    Attributes:
        contents: the `ctx:` documents.
        commands: those on documents, which code actions name.
    """

    def __init__(self, session: Session, chats: Chats) -> None:
        self._session = session
        self.contents = Contents(session, chats)
        self.commands = DocumentCommands(session, chats, self.contents)
        self._since: dict[str, float] = {}
        session.chunk_listeners.append(self.chunks_changed)
        self._refresh: Announcement[None] = Announcement(lambda _: self._refresh_lenses(), _QUIET_SECONDS)

    def chunks_changed(self, state: ChunksResult) -> None:
        now = time.monotonic()
        self._since = {chunk.hash: self._since.get(chunk.hash, now) for chunk in state.chunks}
        if self._session.editor.can("workspace.code_lens.refresh_support"):
            self._refresh.put(None)
        self.contents.chunks_changed(state)

    def stop(self) -> None:
        self._refresh.stop()
        self.contents.stop()

    def code_lens(self, params: types.CodeLensParams) -> list[types.CodeLens]:
        uri = params.text_document.uri
        source, chunk = self._find(uri)
        reason = self._session.context.ledger.why_left_out(source)
        if chunk is not None:
            return [lenses.of_chunk(chunk, source, reason)]
        path = self._loadable(uri)
        return [] if path is None else [lenses.of_absent(path, reason)]

    def hover(self, params: types.HoverParams) -> types.Hover | None:
        """A card on a document's first line; elsewhere other servers have the word."""
        source, chunk = self._find(params.text_document.uri)
        if chunk is None or params.position.line != 0:
            return None
        formats = self._session.editor.capability("text_document.hover.content_format") or ()
        kind = types.MarkupKind.Markdown if types.MarkupKind.Markdown in formats else types.MarkupKind.PlainText
        return hovers.card(chunk, source, time.monotonic() - self._since[chunk.hash], kind)

    def code_actions(self, params: types.CodeActionParams) -> list[types.CodeAction] | list[types.Command]:
        uri = params.text_document.uri
        if self._session.documents.text(uri) is None:
            return []
        source, chunk = self._find(uri)
        place = Place(
            selection=Selection(uri=uri, range=_range(params.range)),
            source=source,
            chunk=chunk,
            path=self._loadable(uri),
            diagnostics=params.context.diagnostics,
            can_ask=protocol.ASK_CLIENT_COMMAND in self._session.options.client_commands,
        )
        offered = actions.offered(place, params.context.only)
        if self._session.editor.can("text_document.code_action.code_action_literal_support"):
            return offered
        return [actions.as_command(action) for action in offered]

    def _find(self, uri: str) -> tuple[str, ChunkInfo | None]:
        """What a document is called, and its chunk."""
        source = self._source(uri)
        return source, self._session.context.find_source(source)

    def _source(self, uri: str) -> str:
        """A cell of a notebook has another name than its own URI's."""
        document = self._session.documents.find(uri)
        return self._session.sources.of_uri(uri) if document is None else document.source

    def _loadable(self, uri: str) -> Path | None:
        """The file of a document that could be a chunk, and isn't on its way to become one."""
        session = self._session
        is_pending = session.link.current is None or session.documents.is_pending(self._source(uri))
        return None if is_pending or not session.documents.text(uri) else path_of(uri)

    def _refresh_lenses(self) -> None:
        self._session.editor.post(types.WORKSPACE_CODE_LENS_REFRESH, None)


def _range(range: types.Range) -> Range:
    start, end = range.start, range.end
    return Range(
        start=Position(line=start.line, character=start.character),
        end=Position(line=end.line, character=end.character),
    )
