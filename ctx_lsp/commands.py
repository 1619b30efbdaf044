"""What `workspace/executeCommand` and slash commands do: each is one function of its params to a `CommandResult`.

Knows sessions and chunks; knows nothing of how a command was called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ctx_lsp import markdown, protocol, workspace_files
from ctx_lsp.chat import Chats
from ctx_lsp.engine_client import EngineClient
from ctx_lsp.protocol import (
    ChunkInfo,
    ChunkList,
    ClearParams,
    ClearResult,
    CommandResult,
    ComposeParams,
    DeleteResult,
    LoadParams,
    LoadResult,
    NoParams,
    PopulateParams,
    RefsParams,
    Skipped,
    TagParams,
)
from ctx_lsp.session import Session
from ctx_lsp.shelf import reserved_tokens

DISCOVER_TOKENS = 6000
_BYTES_PER_TOKEN = 3


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
            protocol.POPULATE_COMMAND: self.populate,
            protocol.COMPOSE_COMMAND: self.compose,
            protocol.TAG_COMMAND: self.tag,
            protocol.DELETE_COMMAND: self.delete,
            protocol.CLEAR_COMMAND: self.clear,
        }

    async def load(self, params: LoadParams) -> CommandResult:
        async with self._engine() as client:
            selection = await asyncio.to_thread(workspace_files.select, params.paths, self._session.sources.base)
            files = [*selection.files, *(await self._discovered() if params.discover else ())]
            result = await self._load_files(client, list(dict.fromkeys(files)))
            await self._session.warm(client)
        result = LoadResult(loaded=result.loaded, skipped=(*selection.skipped, *result.skipped))
        return CommandResult(markdown=markdown.load(result), data=result)

    async def context(self, _: NoParams) -> CommandResult:
        async with self._engine() as client:
            result = await self._session.context.refresh(client)
        return CommandResult(markdown=markdown.context(result), data=result)

    async def activate(self, params: RefsParams) -> CommandResult:
        return await self._switch(params.refs, active=True)

    async def deactivate(self, params: RefsParams) -> CommandResult:
        return await self._switch(params.refs, active=False)

    async def populate(self, params: PopulateParams) -> CommandResult:
        async with self._engine() as client:
            plan = await self._session.context.populate(client, params.refs or None)
        return CommandResult(markdown=markdown.plan(plan), data=plan)

    async def compose(self, params: ComposeParams) -> CommandResult:
        async with self._engine() as client:
            chunk = await self._session.context.compose(client, params.refs, params.name)
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

    @asynccontextmanager
    async def _engine(self) -> Any:
        async with self._session.engine() as client:
            await self._session.flush(client)
            yield client

    async def _discovered(self) -> list[Path]:
        state = self._session.context.state
        free = state.limit - state.active_tokens - reserved_tokens(state.limit)
        budget = min(DISCOVER_TOKENS, free) * _BYTES_PER_TOKEN
        return await asyncio.to_thread(workspace_files.discover, self._session.sources.base, budget)

    async def _load_files(self, client: EngineClient, files: Sequence[Path]) -> LoadResult:
        skipped = await asyncio.to_thread(_unusable, files, frozenset(self._session.documents.open_paths()))
        usable = [path for path in files if path not in skipped]
        sources = {path: self._session.documents.load(path) for path in usable}
        shelf = await self._session.flush(client)
        await self._session.context.refresh(client)
        loaded: dict[str, ChunkInfo] = {}
        for path, source in sources.items():
            chunk = self._session.context.find_source(source)
            if chunk is not None and source not in shelf.refused:
                loaded[chunk.hash] = chunk
                continue
            skipped[path] = shelf.refused.get(source, "empty")
            self._session.documents.dismiss([source])
            await self._session.context.remove_source(client, source)
        names = {path: self._session.sources.of_path(path) for path in skipped}
        reasons = tuple(Skipped(path=names[path], reason=reason) for path, reason in skipped.items())
        return LoadResult(loaded=tuple(loaded.values()), skipped=reasons)


def _unusable(files: Sequence[Path], open_paths: frozenset[Path]) -> dict[Path, str]:
    """Files that can't become chunks, with the reason. An open document's file need not even exist yet."""
    reasons: dict[Path, str] = {}
    for path in files:
        if path not in open_paths:
            try:
                workspace_files.read_text(path)
            except workspace_files.UnusableFileError as error:
                reasons[path] = str(error)
    return reasons
