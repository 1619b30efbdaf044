"""The requests `ctx/chat` and below: each is one function of its params to a result.

Knows chats and conversations; knows nothing of how requests come in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ctx_lsp import protocol, wire
from ctx_lsp.chat import Chats
from ctx_lsp.protocol import (
    ConversationInfo,
    ConversationParams,
    ConversationsResult,
    ForkParams,
    HistoryResult,
    NoParams,
    RenameParams,
)

NAMES = tuple(
    method.name
    for method in protocol.METHODS.values()
    if method.kind == "request" and method.name.startswith(protocol.CHAT)
)


class ChatRequests:
    """The requests about the conversations of one server. None of them but `ctx/chat` needs the engine."""

    def __init__(self, chats: Chats) -> None:
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
