"""`ctx.load`: paths to chunks, and for each path that doesn't become one the reason.

Knows files, documents and room in the context; knows nothing of how the result is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ctx_lsp.client.progress import Report
from ctx_lsp.engines.client import EngineClient
from ctx_lsp.protocol import ChunkInfo, LoadParams, LoadResult, Skipped
from ctx_lsp.session import Session
from ctx_lsp.workspace import workspace_files

_BATCH = 32


async def load_files(session: Session, client: EngineClient, params: LoadParams, report: Report) -> LoadResult:
    """Loads what the paths mean, in their order, as far as there is room for it."""
    sources = session.sources
    unsaved = frozenset(session.documents.open_paths())
    selection = await asyncio.to_thread(workspace_files.select, params.paths, sources.base, sources.folders, unsaved)
    files = selection.files
    job = _Job(session, client)
    for start in range(0, len(files), _BATCH):
        report(f"{start:,} of {len(files):,} files", start / len(files))
        await job.load(files[start : start + _BATCH])
    skipped = [Skipped(path=session.sources.of_path(path), reason=reason) for path, reason in job.skipped.items()]
    if params.discover:
        job.loaded |= {chunk.hash: chunk for chunk in await session.workspace.autoload.load(client)}
    return LoadResult(loaded=tuple(job.loaded.values()), skipped=(*selection.skipped, *skipped))


class _Job:
    """One command's progress.

    Attributes:
        loaded: chunks by hash.
        skipped: reasons by path.
    """

    def __init__(self, session: Session, client: EngineClient) -> None:
        self._session = session
        self._client = client
        self._is_full = False
        self.loaded: dict[str, ChunkInfo] = {}
        self.skipped: dict[Path, str] = {}

    async def load(self, files: Sequence[Path]) -> None:
        """Loads a few files. Once a whole batch found no room, no more are tried.

        Those that it didn't get to when it fails or is cancelled are not wanted any more.
        """
        if self._is_full:
            self.skipped |= dict.fromkeys(files, "the context is full")
            return
        unusable = await asyncio.to_thread(_unusable, files, frozenset(self._session.documents.open_paths()))
        self.skipped |= unusable
        were_there = frozenset(self._session.context.sources)
        sources = {path: self._session.documents.load(path) for path in files if path not in unusable}
        try:
            await self._session.flush(self._client)
        except BaseException:
            self._session.documents.dismiss(set(sources.values()) - self._session.context.sources)
            raise
        reasons = {source: self._session.context.ledger.why_left_out(source) for source in sources.values()}
        found = {path: self._session.context.find_source(source) for path, source in sources.items()}
        for path, chunk in found.items():
            source = sources[path]
            if chunk is not None and reasons[source] is None:
                self.loaded[chunk.hash] = chunk
            else:
                self.skipped[path] = reasons[source] or "empty"
                if source not in were_there:
                    await self._take_back(source)
        self._is_full = bool(sources) and None not in reasons.values()

    async def _take_back(self, source: str) -> None:
        self._session.documents.dismiss([source])
        await self._session.context.remove_source(self._client, source)


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
