"""The requests `ctx/chat` and below: each is one function of its params to a result.

Knows chats and conversations; knows nothing of how requests come in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ctx_lsp import protocol, wire
from ctx_lsp.chat.apply import apply_block
from ctx_lsp.chat.chat import Chats
from ctx_lsp.chat.code_blocks import Block, find_blocks
from ctx_lsp.protocol import (
    ApplyParams,
    ApplyResult,
    ConversationInfo,
    ConversationParams,
    ConversationsResult,
    ForkParams,
    HistoryResult,
    NoParams,
    RenameParams,
)
from ctx_lsp.session import Session

NAMES = tuple(
    method.name
    for method in protocol.METHODS.values()
    if method.kind == "request" and method.name.startswith(protocol.CHAT)
)


class ChatRequests:
    """The requests about the conversations of one server. None of them but `ctx/chat` needs the engine."""

    def __init__(self, session: Session, chats: Chats) -> None:
        self._session = session
        self._chats = chats
        self._conversations = chats.conversations

    def table(self) -> dict[str, Callable[[Any], Awaitable[Any]]]:
        """Handlers by method name; what each takes and answers is in `protocol.METHODS`."""
        return {
            protocol.CHAT: self._chats.ask,
            protocol.CONVERSATIONS: self.list,
            protocol.HISTORY: self.history,
            protocol.FORK: self.fork,
            protocol.RENAME: self.rename,
            protocol.DELETE_CONVERSATION: self.delete,
            protocol.APPLY: self.apply,
        }

    async def list(self, _: NoParams) -> ConversationsResult:
        return ConversationsResult(conversations=await self._conversations.list())

    async def history(self, params: ConversationParams) -> HistoryResult:
        return await self._chats.history(params.conversation_id)

    async def fork(self, params: ForkParams) -> ConversationInfo:
        return (await self._conversations.fork(params.conversation_id, params.turn_id)).info

    async def rename(self, params: RenameParams) -> ConversationInfo:
        if not params.title.strip():
            raise wire.WireError(["title: expected some text"])
        return (await self._conversations.rename(params.conversation_id, " ".join(params.title.split()))).info

    async def delete(self, params: ConversationParams) -> ConversationInfo:
        """What was deleted."""
        return (await self._conversations.delete(params.conversation_id)).info

    async def apply(self, params: ApplyParams) -> ApplyResult:
        return await apply_block(self._session, await self._block(params), params)

    async def _block(self, params: ApplyParams) -> Block:
        if params.text is not None:
            return Block(language=params.language, path=None, text=params.text, start=0, end=0)
        if params.turn_id is None:
            raise wire.WireError(["text: is missing, and so is turnId"])
        turn = (await self._conversations.get(params.conversation_id)).turn(params.turn_id)
        blocks = find_blocks(turn.answer)
        if not 0 <= params.block < len(blocks):
            raise wire.WireError([f"block: expected 0 or more, and less than the answer's {len(blocks)} blocks"])
        return blocks[params.block]
