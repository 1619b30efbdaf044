"""What `workspace/executeCommand` and slash commands do: each is one function of its params to a `CommandResult`.

Knows sessions and chunks; knows nothing of how a command was called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ctx_lsp import markdown, protocol
from ctx_lsp.chat import Chats
from ctx_lsp.loading import load_files
from ctx_lsp.protocol import (
    ChunkList,
    ClearParams,
    ClearResult,
    CommandResult,
    ComposeParams,
    DeleteResult,
    LoadParams,
    NoParams,
    PopulateParams,
    RefsParams,
    TagParams,
)
from ctx_lsp.selections import add_selection
from ctx_lsp.session import Session


class Commands:
    """The commands of one server. All of them wait for the engine and see the latest text of every document."""

    def __init__(self, session: Session, chats: Chats) -> None:
        self._session = session
        self._chats = chats

    def table(self) -> dict[str, Callable[[Any], Awaitable[CommandResult]]]:
        """Handlers by command name; what each takes is in `protocol.METHODS`."""
        return {
            protocol.LOAD_COMMAND: self.load,
            protocol.CONTEXT_COMMAND: self.context,
            protocol.ACTIVATE_COMMAND: self.activate,
            protocol.DEACTIVATE_COMMAND: self.deactivate,
            protocol.PIN_COMMAND: self.pin,
            protocol.UNPIN_COMMAND: self.unpin,
            protocol.POPULATE_COMMAND: self.populate,
            protocol.COMPOSE_COMMAND: self.compose,
            protocol.TAG_COMMAND: self.tag,
            protocol.DELETE_COMMAND: self.delete,
            protocol.CLEAR_COMMAND: self.clear,
        }

    async def load(self, params: LoadParams) -> CommandResult:
        async with self._engine() as client:
            result = await load_files(self._session, client, params)
            await self._session.warm(client)
        return CommandResult(markdown=markdown.load(result), data=result)

    async def context(self, _: NoParams) -> CommandResult:
        async with self._engine() as client:
            result = await self._session.context.refresh(client)
        return CommandResult(markdown=markdown.context(result), data=result)

    async def activate(self, params: RefsParams) -> CommandResult:
        return await self._switch(params.refs, active=True)

    async def deactivate(self, params: RefsParams) -> CommandResult:
        return await self._switch(params.refs, active=False)

    async def pin(self, params: RefsParams) -> CommandResult:
        return await self._pin(params.refs, pinned=True)

    async def unpin(self, params: RefsParams) -> CommandResult:
        return await self._pin(params.refs, pinned=False)

    async def populate(self, params: PopulateParams) -> CommandResult:
        async with self._engine() as client:
            plan = await self._session.context.populate(client, params.refs or None)
        return CommandResult(markdown=markdown.populating(plan), data=plan)

    async def compose(self, params: ComposeParams) -> CommandResult:
        async with self._engine() as client:
            selected = [await add_selection(self._session, client, item, active=False) for item in params.selections]
            refs = [*params.refs, *(chunk.hash for chunk in selected)]
            chunk = await self._session.context.compose(client, refs, params.name)
            await self._session.warm(client)
        return CommandResult(markdown=markdown.composed(chunk), data=chunk)

    async def tag(self, params: TagParams) -> CommandResult:
        async with self._engine() as client:
            chunks = await self._session.context.tag(client, params.refs, params.tags)
        return CommandResult(markdown=markdown.tagged(chunks), data=ChunkList(chunks=chunks))

    async def delete(self, params: RefsParams) -> CommandResult:
        async with self._engine() as client:
            before = {chunk.hash: chunk.sources for chunk in self._session.context.state.chunks}
            hashes = await self._session.context.delete(client, params.refs)
            self._session.documents.dismiss(source for hash in hashes for source in before.get(hash, ()))
            await self._session.warm(client)
        return CommandResult(markdown=markdown.deleted(hashes), data=DeleteResult(hashes=hashes))

    async def clear(self, params: ClearParams) -> CommandResult:
        """Without `scope`, everything goes; conversations go without asking the engine."""
        if params.scope == "conversation":
            self._chats.forget(params.conversation_id)
            text = "The conversation starts over."
        else:
            async with self._engine() as client:
                await self._session.context.clear(client, params.scope)
            text = "Answers were cleared."
        if params.scope == "all":
            self._session.documents.dismiss_all()
            self._chats.forget_all()
            text = "Chunks and conversations were cleared."
        return CommandResult(markdown=text, data=ClearResult(scope=params.scope))

    async def _switch(self, refs: Sequence[str], *, active: bool) -> CommandResult:
        async with self._engine() as client:
            chunks = await self._session.context.set_active(client, refs, active)
            await self._session.warm(client)
        return CommandResult(markdown=markdown.switched(chunks, active), data=ChunkList(chunks=chunks))

    async def _pin(self, refs: Sequence[str], *, pinned: bool) -> CommandResult:
        async with self._engine() as client:
            chunks = await self._session.context.set_pinned(client, refs, pinned)
        return CommandResult(markdown=markdown.pinned(chunks, pinned), data=ChunkList(chunks=chunks))

    @asynccontextmanager
    async def _engine(self) -> Any:
        async with self._session.engine() as client:
            await self._session.flush(client)
            yield client
