"""Commands on documents, for clients that offer a code action or a URI and nothing more: add, explain, show.

Each is one function of its params to a `CommandResult`. Knows sessions, questions and `ctx:` documents; knows nothing
of how a command was called.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from lsprotocol import types

from ctx_lsp import protocol
from ctx_lsp.chat import questions
from ctx_lsp.chat.chat import Chats
from ctx_lsp.client.progress import request_progress
from ctx_lsp.commands import markdown
from ctx_lsp.protocol import (
    AddSelectionParams,
    ChatParams,
    CommandResult,
    ExplainParams,
    Sampling,
    Selection,
    ShowParams,
    ShowResult,
    TurnContext,
)
from ctx_lsp.session import Session
from ctx_lsp.surface.content import Contents
from ctx_lsp.workspace.selections import add_selection

_MOST_TOKENS = 600
"""Of an explanation: whoever reads it sees it only when it is whole."""


class DocumentCommands:
    """The commands of one server that are about documents."""

    def __init__(self, session: Session, chats: Chats, contents: Contents) -> None:
        self._session = session
        self._chats = chats
        self._contents = contents

    def table(self) -> dict[str, Callable[[Any], Awaitable[CommandResult]]]:
        """Handlers by command name; what each takes is in `protocol.METHODS`."""
        return {
            protocol.ADD_SELECTION_COMMAND: self.add_selection,
            protocol.EXPLAIN_COMMAND: self.explain,
            protocol.SHOW_COMMAND: self.show,
        }

    async def add_selection(self, params: AddSelectionParams) -> CommandResult:
        session, selection = self._session, Selection(uri=params.uri, range=params.range)
        async with session.engine() as client:
            await session.flush(client)
            chunk = await add_selection(session, client, selection, params.name)
            await session.context.refresh(client)
            await session.warm(client)
        return CommandResult(markdown=markdown.added(chunk), data=chunk)

    async def explain(self, params: ExplainParams) -> CommandResult:
        """Asks in a conversation of its own, and shows the answer as well as the client can."""
        turn_id = uuid.uuid4().hex
        question = ChatParams(
            turn_id=turn_id,
            text=questions.explain(params.problem),
            conversation_id=turn_id,
            sampling=Sampling(max_tokens=_MOST_TOKENS),
            context=TurnContext(selections=(Selection(uri=params.uri, range=params.range),)),
        )
        with request_progress(self._session.editor, "Explaining") as report:
            report("waiting for the answer", None)
            result = await self._chats.ask(question)
        if not await self._open(self._contents.keep_answer(turn_id, result.text)):
            self._session.editor.show(result.text)
        return CommandResult(markdown=result.text, data=result)

    async def show(self, params: ShowParams) -> CommandResult:
        content = await self._contents.read(params.uri)
        shown = await self._open(params.uri)
        return CommandResult(
            markdown=markdown.document(content.text, content.language_id), data=ShowResult(shown=shown)
        )

    async def _open(self, uri: str) -> bool:
        """Whether the client shows the document."""
        editor = self._session.editor
        if not (editor.can("window.show_document.support") and editor.can("workspace.text_document_content")):
            return False
        answer = await editor.request(types.WINDOW_SHOW_DOCUMENT, types.ShowDocumentParams(uri))
        return isinstance(answer, dict) and answer.get("success") is True
