"""Saves this workspace's context under a name and brings it back, whatever has become of the files meanwhile.

Knows contexts, documents and files; how a saved context is kept is the business of `saved_contexts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from ctx_lsp.commands.saved_contexts import SavedChunk, SavedContext, SavedContexts, SavedSource
from ctx_lsp.engines.client import EngineClient, RemoteEngineError
from ctx_lsp.protocol import ChunkInfo, RestoreResult
from ctx_lsp.session import Session
from ctx_lsp.state_folder import workspace_folder
from ctx_lsp.workspace.workspace_files import UnusableFileError, read_text


class Saving:
    """What can be done with the saved contexts of a session's workspace."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def save(self, client: EngineClient, name: str) -> SavedContext:
        """Keeps the context as it is now; one of that name is replaced. Raises EngineError."""
        state = await self._session.context.refresh(client)
        chunks = tuple(self._saved(chunk) for chunk in state.chunks)
        context = SavedContext(name=name, saved=datetime.now(UTC).isoformat(timespec="seconds"), chunks=chunks)
        await asyncio.to_thread(self._store.write, context)
        return context

    async def restore(self, client: EngineClient, name: str) -> RestoreResult:
        """Files that are open or on disk follow their texts of today; all else comes back as it was saved.

        Chunks that were not saved stay, inactive. Raises EngineError.
        """
        saved = await asyncio.to_thread(self._store.read, name)
        await self._session.context.refresh(client)
        wanted = [self._renamed(chunk) for chunk in saved.chunks]
        followed = await self._follow(wanted)
        await self._session.flush(client)
        followed |= self._open_names(wanted)
        for chunk in wanted:
            await self._put(client, chunk, [source for source in chunk.sources if source not in followed])
        state = await self._session.context.arrange(client, wanted)
        return _result(name, wanted, followed, state.chunks)

    def names(self) -> Sequence[str]:
        """Blocking; call it on a thread."""
        return [context.name for context in self._store.all()]

    async def all(self) -> Sequence[SavedContext]:
        return await asyncio.to_thread(self._store.all)

    async def forget(self, name: str) -> SavedContext:
        """Returns what it was. Raises EngineError."""
        return await asyncio.to_thread(self._store.forget, name)

    @property
    def _store(self) -> SavedContexts:
        return SavedContexts(workspace_folder(self._session.sources.folders) / "contexts")

    def _saved(self, chunk: ChunkInfo) -> SavedChunk:
        paths = {source: self._session.sources.path(source) for source in chunk.sources}
        return SavedChunk(
            hash=chunk.hash,
            kind=chunk.kind,
            origins=tuple(SavedSource(name=name, path=str(path) if path else None) for name, path in paths.items()),
            tags=chunk.tags,
            parts=chunk.parts,
            active=chunk.active,
            pinned=chunk.pinned,
            tokens=chunk.tokens,
            text=self._session.context.text(chunk.hash),
        )

    def _renamed(self, chunk: SavedChunk) -> SavedChunk:
        """With the names that its files have in this session, and no name that another answer has."""
        origins = tuple(attrs.evolve(origin, name=self._name(chunk, origin)) for origin in chunk.origins)
        return attrs.evolve(chunk, origins=origins)

    def _name(self, chunk: SavedChunk, origin: SavedSource) -> str:
        if origin.path is not None:
            return self._session.sources.of_path(Path(origin.path))
        holder = self._session.context.find_source(origin.name)
        is_taken = chunk.kind == "output" and holder is not None and holder.hash != chunk.hash
        return f"{origin.name} ({chunk.hash[:8]})" if is_taken else origin.name

    async def _follow(self, chunks: Sequence[SavedChunk]) -> set[str]:
        """Wants the files that are open or on disk. Returns their sources, whose texts come by themselves."""
        documents = self._session.documents
        paths = {Path(origin.path): None for chunk in chunks for origin in chunk.origins if origin.path is not None}
        there = set(documents.open_paths())
        there |= await asyncio.to_thread(lambda: {path for path in paths if _is_readable(path)})
        return {documents.load(path) for path in paths if path in there}

    def _open_names(self, chunks: Sequence[SavedChunk]) -> set[str]:
        """Those that are no files but open documents, whose texts have come by themselves."""
        names = {origin.name for chunk in chunks for origin in chunk.origins if origin.path is None}
        documents, context = self._session.documents, self._session.context
        return {name for name in names if documents.text(name) and context.find_source(name) is not None}

    async def _put(self, client: EngineClient, chunk: SavedChunk, sources: Sequence[str]) -> None:
        """What the engine refuses is lost, and does no harm to the rest."""
        for source in sources if chunk.text is not None else ():
            try:
                await self._session.context.put(client, source, chunk.text or "", kind=chunk.kind)
            except RemoteEngineError as error:
                self._session.editor.log(f"{source} could not be restored: {error.message}")


def _result(name: str, wanted: Sequence[SavedChunk], followed: set[str], chunks: Sequence[ChunkInfo]) -> RestoreResult:
    by_source = {source: chunk for chunk in chunks for source in chunk.sources}
    by_hash = {chunk.hash: chunk for chunk in chunks}
    saved = {source: chunk for chunk in wanted for source in chunk.sources}
    found = {source: by_source.get(source) or by_hash.get(chunk.hash) for source, chunk in saved.items()}
    there = {source: chunk for source, chunk in found.items() if chunk is not None}
    files = {origin.name for chunk in wanted for origin in chunk.origins if origin.path is not None}
    return RestoreResult(
        name=name,
        chunks=tuple({chunk.hash: chunk for chunk in there.values()}.values()),
        changed=tuple(
            source for source, chunk in there.items() if saved[source].text and chunk.hash != saved[source].hash
        ),
        recovered=tuple(source for source in there if source in files - followed),
        lost=tuple(source for source in saved if source not in there),
    )


def _is_readable(path: Path) -> bool:
    try:
        read_text(path)
    except UnusableFileError:
        return False
    return True
