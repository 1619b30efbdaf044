"""What `workspace/executeCommand` and slash commands do: each is one function of its params to a `CommandResult`.

Knows sessions and chunks; knows nothing of how a command was called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ctx_lsp import protocol
from ctx_lsp.chat.chat import Chats
from ctx_lsp.client.progress import request_progress
from ctx_lsp.commands import markdown
from ctx_lsp.commands.loading import load_files
from ctx_lsp.commands.populating import populate
from ctx_lsp.commands.saved_contexts import SavedContext
from ctx_lsp.commands.saving import Saving
from ctx_lsp.protocol import (
    ChunkList,
    ChunksResult,
    ClearParams,
    ClearResult,
    CommandResult,
    ComposeParams,
    DeleteResult,
    EngineStats,
    LoadParams,
    MoveParams,
    NoParams,
    PlanParams,
    PopulateParams,
    RefsParams,
    SavedInfo,
    SavedList,
    SavedParams,
    StatsResult,
    TagParams,
)
from ctx_lsp.session import Session
from ctx_lsp.workspace.arrangement import shown
from ctx_lsp.workspace.selections import add_selection


class Commands:
    """The commands of one server. All of them wait for the engine and see the latest text of every document."""

    def __init__(self, session: Session, chats: Chats) -> None:
        self._session = session
        self._chats = chats
        self._saving = Saving(session)

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
            protocol.MOVE_COMMAND: self.move,
            protocol.TAG_COMMAND: self.tag,
            protocol.SAVE_COMMAND: self.save,
            protocol.RESTORE_COMMAND: self.restore,
            protocol.SAVED_COMMAND: self.saved,
            protocol.FORGET_COMMAND: self.forget,
            protocol.PLAN_COMMAND: self.plan,
            protocol.STATS_COMMAND: self.stats,
            protocol.DELETE_COMMAND: self.delete,
            protocol.CLEAR_COMMAND: self.clear,
        }

    def saved_names(self) -> Sequence[str]:
        """Of the saved contexts. Blocking; call it on a thread."""
        return self._saving.names()

    async def load(self, params: LoadParams) -> CommandResult:
        async with self._engine() as client:
            with request_progress(self._session.editor, "Loading files") as report:
                result = await load_files(self._session, client, params, report)
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
            plan = await populate(self._session, client, params.refs or None)
        return CommandResult(markdown=markdown.populating(plan), data=plan)

    async def compose(self, params: ComposeParams) -> CommandResult:
        async with self._engine() as client:
            selected = [await add_selection(self._session, client, item, active=False) for item in params.selections]
            refs = [*params.refs, *(chunk.hash for chunk in selected)]
            chunk = await self._session.context.compose(client, refs, params.name)
            await self._session.warm(client)
        return CommandResult(markdown=markdown.composed(chunk), data=chunk)

    async def move(self, params: MoveParams) -> CommandResult:
        async with self._engine() as client:
            result = await self._session.context.move(client, params.refs, params.position)
            await self._session.warm(client)
        return CommandResult(markdown=markdown.context(result), data=result)

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

    async def save(self, params: SavedParams) -> CommandResult:
        async with self._engine() as client:
            info = _info(await self._saving.save(client, params.name))
        return CommandResult(markdown=markdown.saved(info), data=info)

    async def restore(self, params: SavedParams) -> CommandResult:
        async with self._engine() as client:
            result = await self._saving.restore(client, params.name)
            await self._session.warm(client)
        return CommandResult(markdown=markdown.restored(result), data=result)

    async def saved(self, _: NoParams) -> CommandResult:
        """Needs no engine, as `forget` doesn't."""
        contexts = tuple(_info(context) for context in await self._saving.all())
        return CommandResult(markdown=markdown.saved_list(contexts), data=SavedList(contexts=contexts))

    async def forget(self, params: SavedParams) -> CommandResult:
        info = _info(await self._saving.forget(params.name))
        return CommandResult(markdown=markdown.forgotten(info), data=info)

    async def plan(self, params: PlanParams) -> CommandResult:
        plan = await self._chats.plan(params)
        pinned = {chunk.hash for chunk in self._session.context.state.chunks if chunk.pinned}
        return CommandResult(markdown=markdown.plan(plan, pinned), data=plan)

    async def stats(self, _: NoParams) -> CommandResult:
        async with self._engine() as client:
            state = await self._session.context.refresh(client)
            result = _stats(state, await client.stats())
        return CommandResult(markdown=markdown.stats(result), data=result)

    async def clear(self, params: ClearParams) -> CommandResult:
        """Without `scope`, chunks and conversation go; a conversation goes without asking the engine."""
        if params.scope == "conversation":
            await self._chats.conversations.forget(params.conversation_id)
            text = "The conversation starts over."
        else:
            async with self._engine() as client:
                await self._session.context.clear(client, params.scope)
            text = "Answers were cleared."
        if params.scope == "all":
            self._session.documents.dismiss_all()
            await self._chats.conversations.forget(params.conversation_id)
            text = "The chunks were cleared, and the conversation starts over."
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


def _info(context: SavedContext) -> SavedInfo:
    active = sum(chunk.tokens for chunk in shown(context.chunks))
    return SavedInfo(name=context.name, saved=context.saved, chunks=len(context.chunks), active_tokens=active)


def _stats(state: ChunksResult, engine: EngineStats | None) -> StatsResult:
    return StatsResult(
        chunks=len(state.chunks),
        active_chunks=sum(chunk.active for chunk in state.chunks),
        tokens=sum(chunk.tokens for chunk in state.chunks if not chunk.parts),
        active_tokens=state.active_tokens,
        warm_tokens=sum(chunk.warm_tokens for chunk in shown(state.chunks)),
        limit=state.limit,
        engine=engine,
    )
