"""This server's context on the engine, as last seen, with what it takes to build it again on a fresh engine.

Knows chunks and texts; knows nothing of documents, files or when an engine comes and goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ctx_lsp.engines.client import EngineClient, Promptness
from ctx_lsp.protocol import ChunkInfo, ChunksResult, Order, Plan
from ctx_lsp.workspace.arrangement import Wanted, arrange
from ctx_lsp.workspace.budget import reserved_tokens
from ctx_lsp.workspace.ledger import Ledger
from engine.errors import ContextFullError
from engine.types import Message


class RemoteContext:
    """One context. Operations run one after the other, in the order in which they were called.

    Invariants: `state` is what the engine last answered, in prompt order; `_texts` has the text of every chunk of it
    that came through this server, by hash, so that `attach` can give them to an engine that knows nothing.

    Attributes:
        id: on the engine.
        ledger: whose the chunks are, and what was left out.
        state: chunks, active tokens and limit as last seen.
        sources: of the chunks as they are now, which `state` may not show yet.
    """

    def __init__(
        self,
        id: str,
        instructions: str | None,
        order: Order,
        ledger: Ledger,
        resolve: Callable[[Sequence[str], Sequence[ChunkInfo]], list[str]],
        on_change: Callable[[ChunksResult], None],
    ) -> None:
        self.id = id
        self.ledger = ledger
        self.state = ChunksResult(chunks=(), active_tokens=0, limit=0)
        self.sources: set[str] = set()
        self._instructions = instructions
        self._order = order
        self._resolve = resolve
        self._on_change = on_change
        self._texts: dict[str, str] = {}
        self._lock = asyncio.Lock()

    # -- keeping up ------------------------------------------------------------------------------------------------

    async def attach(self, client: EngineClient) -> None:
        """Creates the context; where the engine doesn't have it any more, fills it with what it held before."""
        async with self._lock:
            state = await client.create_context(self.id, self._instructions, self._order)
            if not state.chunks:
                await self._rebuild(client)
            await self._refresh(client)

    def configure(self, instructions: str | None, order: Order) -> None:
        """Counts from the next `attach` on."""
        self._instructions = instructions
        self._order = order

    async def refresh(self, client: EngineClient) -> ChunksResult:
        async with self._lock:
            return await self._refresh(client)

    def restate(self) -> None:
        """What the ledger says may have changed, though no chunk did."""
        self._see(self.ledger.annotate(self.state))

    def keep_text(self, hash: str, text: str) -> None:
        """Remembers the text of a chunk that the engine made itself (an answer)."""
        self._texts[hash] = text

    def text(self, hash: str) -> str | None:
        return self._texts.get(hash)

    def find_source(self, source: str) -> ChunkInfo | None:
        return next((chunk for chunk in self.state.chunks if source in chunk.sources), None)

    # -- changing --------------------------------------------------------------------------------------------------

    async def put(self, client: EngineClient, source: str, text: str, **fields: Any) -> ChunkInfo:
        """Adds a text, or replaces what its source named. The state is behind until the next `refresh`.

        `fields` as `EngineClient.add_chunk` has them.
        """
        async with self._lock:
            info = await client.add_chunk(self.id, text, source, **fields)
            self._texts[info.hash] = text
            self.sources.add(source)
            return info

    async def remove_source(self, client: EngineClient, source: str) -> None:
        async with self._lock:
            await client.remove_source(self.id, source)
            self.sources.discard(source)

    async def set_active(self, client: EngineClient, refs: Sequence[str], active: bool) -> tuple[ChunkInfo, ...]:
        """For what the user activates automatic chunks make room. Raises ContextFullError where that isn't enough."""
        async with self._lock:
            chunks = await client.set_active(self.id, await self._hashes(client, refs), active)
            if active:
                await self._check_room(client, chunks)
            return await self._taken(client, chunks)

    async def set_pinned(self, client: EngineClient, refs: Sequence[str], pinned: bool) -> tuple[ChunkInfo, ...]:
        async with self._lock:
            chunks = await client.set_pinned(self.id, await self._hashes(client, refs), pinned)
            return await self._taken(client, chunks)

    async def compose(self, client: EngineClient, refs: Sequence[str], name: str) -> ChunkInfo:
        async with self._lock:
            chunk = await client.compose(self.id, await self._hashes(client, refs), name)
            await self._refresh(client)
            return chunk

    async def tag(self, client: EngineClient, refs: Sequence[str], tags: Sequence[str]) -> tuple[ChunkInfo, ...]:
        """A tag that begins with `-` is taken off."""
        added = [tag.removeprefix("#") for tag in tags if not tag.startswith("-")]
        removed = [tag[1:].removeprefix("#") for tag in tags if tag.startswith("-")]
        async with self._lock:
            chunks = []
            for ref in await self._hashes(client, refs):
                chunk = await client.tag(self.id, ref, added) if added else None
                chunk = await client.tag(self.id, ref, removed, remove=True) if removed else chunk
                chunks += [chunk] if chunk is not None else []
            return await self._taken(client, chunks)

    async def move(self, client: EngineClient, refs: Sequence[str], position: int) -> ChunksResult:
        """Puts chunks at a place in the order, as the refs have them; negative counts from the end."""
        async with self._lock:
            moved = await self._hashes(client, refs)
            rest = [chunk.hash for chunk in self.state.chunks if chunk.hash not in moved]
            place = position if position >= 0 else max(0, len(rest) + 1 + position)
            for hash in moved:  # all to the end first, so that none of them counts while the others find their places
                await client.move(self.id, hash, len(self.state.chunks))
            for offset, hash in enumerate(moved):
                await client.move(self.id, hash, min(place, len(rest)) + offset)
            return await self._refresh(client)

    async def arrange(self, client: EngineClient, wanted: Sequence[Wanted]) -> ChunksResult:
        """Gives the chunks the state and order that are wanted; all others are left out of the prompt."""
        async with self._lock:
            await arrange(client, self.id, wanted)
            self.ledger.take(self.sources)
            return await self._refresh(client)

    async def delete(self, client: EngineClient, refs: Sequence[str]) -> tuple[str, ...]:
        async with self._lock:
            hashes = await client.delete(self.id, await self._hashes(client, refs))
            await self._refresh(client)
            return hashes

    async def clear(self, client: EngineClient, scope: str) -> None:
        async with self._lock:
            await client.clear(self.id, scope)
            await self._refresh(client)

    # -- asking ----------------------------------------------------------------------------------------------------

    async def populate(self, client: EngineClient, refs: Sequence[str] | None = None) -> Plan:
        async with self._lock:
            return await client.populate(self.id, None if refs is None else await self._hashes(client, refs))

    async def stop_populating(self, client: EngineClient) -> None:
        await client.stop_populating(self.id)

    async def prompt(self, client: EngineClient, messages: Sequence[Message], promptness: Promptness) -> str:
        return await client.prompt(self.id, messages, promptness)

    async def plan(self, client: EngineClient, messages: Sequence[Message], promptness: Promptness) -> Plan:
        return await client.plan(self.id, messages, promptness)

    # -- inside the lock -------------------------------------------------------------------------------------------

    async def _hashes(self, client: EngineClient, refs: Sequence[str]) -> list[str]:
        """What the refs mean now. Raises EngineError."""
        return self._resolve(refs, (await self._refresh(client)).chunks)

    async def _taken(self, client: EngineClient, chunks: Sequence[ChunkInfo]) -> tuple[ChunkInfo, ...]:
        """The user has decided about these. Returns them as they are now."""
        self.ledger.take(source for chunk in chunks for source in chunk.sources)
        state = {chunk.hash: chunk for chunk in (await self._refresh(client)).chunks}
        return tuple(state[chunk.hash] for chunk in chunks if chunk.hash in state)

    async def _check_room(self, client: EngineClient, chunks: Sequence[ChunkInfo]) -> None:
        """Takes an activation back that would leave no room for an answer."""
        limit = self.state.limit - reserved_tokens(self.state.limit)
        needed = self.ledger.needed(chunks, self.state)
        if needed <= limit:
            return
        were_active = {chunk.hash for chunk in self.state.chunks if chunk.active}
        await client.set_active(self.id, [chunk.hash for chunk in chunks if chunk.hash not in were_active], False)
        message = f"the chunks would take {needed:,} tokens, and {limit:,} leave room for an answer: deactivate others"
        raise ContextFullError(message, needed=needed, limit=limit)

    async def _refresh(self, client: EngineClient) -> ChunksResult:
        """Looks at the chunks and lets as many be active as there is room for."""
        state = await client.describe_context(self.id)
        changes = self.ledger.balance(state)
        for active in (False, True):
            if refs := [hash for hash, wanted in changes.items() if wanted is active]:
                await client.set_active(self.id, refs, active)
        if changes:
            state = await client.describe_context(self.id)
        self.sources = {source for chunk in state.chunks for source in chunk.sources}
        hashes = {chunk.hash for chunk in state.chunks}
        self._texts = {hash: text for hash, text in self._texts.items() if hash in hashes}
        return self._see(self.ledger.annotate(state))

    def _see(self, state: ChunksResult) -> ChunksResult:
        before, self.state = self.state, state
        if self.state != before:  # or a client that asks on every change would never come to rest
            self._on_change(self.state)
        return self.state

    async def _rebuild(self, client: EngineClient) -> None:
        """Texts first, then all else."""
        for chunk in self.state.chunks:
            text = self._texts.get(chunk.hash)
            if text is not None:
                for source in chunk.sources:
                    await client.add_chunk(self.id, text, source, kind=chunk.kind)
        await arrange(client, self.id, self.state.chunks)
