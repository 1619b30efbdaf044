"""`ctx:` documents: read-only texts that only the server has, and telling the client when one has changed.

Knows where each text comes from; knows nothing of how a client shows it.
"""

from __future__ import annotations

from lsprotocol import types

from ctx_lsp.chat.chat import Chats
from ctx_lsp.client.announcement import Announcement
from ctx_lsp.client.content_uris import (
    AnswerDocument,
    ChunkDocument,
    PromptDocument,
    UnknownDocumentError,
    answer_uri,
    parse,
)
from ctx_lsp.client.language_ids import MARKDOWN, PLAIN, language_id
from ctx_lsp.engines.client import RemoteEngineError
from ctx_lsp.protocol import ChunksResult, ContentResult, PlanParams
from ctx_lsp.session import Session
from engine.errors import AmbiguousChunkError, UnknownChunkError

_QUIET_SECONDS = 0.5
_MOST_ANSWERS = 50
_MOST_WATCHED = 50

Shape = tuple[tuple[str, bool], ...]


class Contents:
    """The `ctx:` documents of one server.

    Invariants: `_answers` has the latest answers that were kept, by turn; `_watched` the prompts that the client shows,
    as far as it told, so that it hears when they change.
    """

    def __init__(self, session: Session, chats: Chats) -> None:
        self._session = session
        self._chats = chats
        self._answers: dict[str, str] = {}
        self._watched: dict[str, None] = {}
        self._shape: Shape = ()
        self._refresh: Announcement[None] = Announcement(lambda _: self._refresh_watched(), _QUIET_SECONDS)

    async def read(self, uri: str) -> ContentResult:
        """Raises UnknownDocumentError, and EngineError where the engine has the text."""
        match parse(uri):
            case ChunkDocument(hash, name):
                return ContentResult(text=await self._chunk(uri, hash), language_id=language_id(name))
            case PromptDocument(conversation_id, question):
                params = PlanParams(text=question, conversation_id=conversation_id)
                return ContentResult(text=await self._chats.prompt(params), language_id=PLAIN)
            case AnswerDocument(turn_id):
                if turn_id not in self._answers:
                    raise UnknownDocumentError(f"the answer {turn_id} is not kept any more", uri=uri)
                return ContentResult(text=self._answers[turn_id], language_id=MARKDOWN)

    async def read_shown(self, uri: str) -> types.TextDocumentContentResult:
        """The text for a client that shows it, and is told when it changes."""
        content = await self.read(uri)
        if isinstance(parse(uri), PromptDocument):
            self._watched.pop(uri, None)
            self._watched[uri] = None
            _drop_oldest(self._watched, _MOST_WATCHED)
        return types.TextDocumentContentResult(content.text)

    def keep_answer(self, turn_id: str, text: str) -> str:
        """Makes an answer a document; returns its URI."""
        self._answers[turn_id] = text
        _drop_oldest(self._answers, _MOST_ANSWERS)
        return answer_uri(turn_id)

    def closed(self, uri: str) -> None:
        """The client shows a document no longer."""
        self._watched.pop(uri, None)

    def chunks_changed(self, state: ChunksResult) -> None:
        """Every answer becomes a chunk, so this tells of conversations that went on, too."""
        shape = tuple((chunk.hash, chunk.active) for chunk in state.chunks)
        if shape != self._shape:
            self._shape = shape
            if self._watched:
                self._refresh.put(None)

    def stop(self) -> None:
        self._refresh.stop()

    async def _chunk(self, uri: str, hash: str) -> str:
        text = self._session.context.text(hash)
        if text is not None:
            return text
        async with self._session.engine() as client:
            try:
                return await client.chunk_text(self._session.context.id, hash)
            except RemoteEngineError as error:
                if error.code not in (UnknownChunkError.code, AmbiguousChunkError.code):
                    raise
        raise UnknownDocumentError(f"no chunk of the context has the hash {hash}", uri=uri)

    def _refresh_watched(self) -> None:
        for uri in self._watched:
            params = types.TextDocumentContentRefreshParams(uri)
            self._session.editor.post(types.WORKSPACE_TEXT_DOCUMENT_CONTENT_REFRESH, params)


def _drop_oldest(kept: dict[str, str] | dict[str, None], most: int) -> None:
    while len(kept) > most:
        del kept[next(iter(kept))]
