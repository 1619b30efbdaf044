"""Loads the workspace's files by itself: those changed most recently, as many as options and window have room for.

Works in passes, each of which ends with exactly the files that should be loaded; between two of its small steps
everything else goes first. Knows candidates and tokens; what may be a candidate is the admission's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctx_lsp.client.progress import ProgressBar
from ctx_lsp.engines.client import EngineClient, EngineLostError
from ctx_lsp.protocol import ChunkInfo, ChunksResult
from ctx_lsp.workspace.admission import Candidate
from ctx_lsp.workspace.budget import reserved_tokens
from ctx_lsp.workspace.candidates import Candidates
from ctx_lsp.workspace.workspace_files import why_unusable
from engine.errors import EngineError

if TYPE_CHECKING:
    from ctx_lsp.session import Session

logger = logging.getLogger(__name__)

_BYTES_PER_TOKEN = 3
_BATCH = 8
_MOST_LEFT = 20


class Autoload:
    """The files that were loaded by themselves.

    Invariant: `_loaded` has the sources of the files that this has offered to the documents and not withdrawn.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._candidates = Candidates()
        self._loaded: dict[Path, str] = {}
        self._unusable: dict[Path, float] = {}
        self._listed: list[str] = []
        self._stale = asyncio.Event()
        self._lock = asyncio.Lock()
        self._due = False
        self._asked = False
        self._stopped = False
        self._bar = ProgressBar(session.editor, "Loading the workspace's files", self.stop)

    # -- what calls for a pass -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has changed that may make room, or need it."""
        self._due = True
        self._stale.set()

    def renew(self) -> None:
        """Folders or rules have changed: the workspace has to be walked again."""
        self._candidates.renew()
        self._stopped = False
        self.wake()

    def consider(self, paths: Iterable[Path]) -> None:
        """Files, or folders with what is in them, were created, changed or deleted."""
        self._candidates.consider(paths)
        self._stale.set()

    def stop(self) -> None:
        """The user wants no more of it; it goes on when the user asks, or the rules change."""
        self._stopped = True
        self._candidates.renew()  # a walk that goes on now ends early

    async def follow(self) -> None:
        """Passes in the background, as often as they are called for."""
        while True:
            await self._stale.wait()
            await asyncio.sleep(self._session.documents.debounce)
            await self._session.configuration.settled()
            await self._session.workspace.watched.wait()
            self._stale.clear()
            client = self._session.link.current
            if client is None or not self._is_on():
                continue  # an engine that gets ready wakes this
            try:
                await self._pass(client)
            except EngineLostError:
                await self._session.link.report_lost(client)
            except EngineError as error:
                logger.warning("the workspace's files could not be loaded: %s", error.message)
            except Exception:
                logger.exception("the workspace's files could not be loaded")

    async def load(self, client: EngineClient) -> tuple[ChunkInfo, ...]:
        """A pass that the user asked for. Returns what is loaded by itself, the latest changes first."""
        self._asked, self._stopped, self._due = True, False, True
        await self._pass(client)
        chunks = map(self._session.context.find_source, self._loaded.values())
        return tuple(chunk for chunk in chunks if chunk is not None)

    def _is_on(self) -> bool:
        options = self._session.options
        wanted = self._asked or (options.documents == "open" and options.files.max_tokens > 0)
        return (wanted and not self._stopped) or bool(self._loaded)

    # -- a pass ----------------------------------------------------------------------------------------------------

    async def _pass(self, client: EngineClient) -> None:
        async with self._lock:
            due, self._due = self._due, False
            self._bar.show("looking for files", 0.0)
            try:
                candidates, are_new = await self._candidates.look(self._session.documents.admission)
                if due or are_new:
                    await self._load(client, candidates)
            finally:
                self._bar.done()

    async def _load(self, client: EngineClient, candidates: Sequence[Candidate]) -> None:
        """Leaves those and only those of the candidates loaded that should be."""
        before = _composition(self._session.context.state)
        chosen = await self._choose(client, candidates)
        for path in self._loaded.keys() - chosen.keys():
            self._session.documents.withdraw(self._loaded[path])
        self._loaded = chosen
        await self._session.flush(client)
        if _composition(self._session.context.state) != before:
            await self._session.warm(client)

    async def _choose(self, client: EngineClient, candidates: Sequence[Candidate]) -> dict[Path, str]:
        """Loads candidates in their order, a few at a time, until their budget is as good as spent.

        It could always be filled with some old and tiny files, which would be of no use.
        """
        there = {item.path for item in candidates}
        self._unusable = {path: modified for path, modified in self._unusable.items() if path in there}
        room, spent = self._room(), 0
        chosen: dict[Path, str] = {}
        left: list[Candidate] = []
        queue = deque(candidates)
        while queue and not self._stopped and (len(left) < _MOST_LEFT or 2 * spent < room):
            batch = self._next_batch(queue, room - spent, left)
            for item, source in (await self._offer(client, batch)).items():
                tokens = self._tokens(item, source)
                if spent + tokens > room:
                    left.append(item)
                else:
                    spent += tokens
                    chosen[item.path] = source
            self._bar.show(f"{spent:,} of {room:,} tokens", spent / max(1, room))
            await asyncio.sleep(0)
        if not self._stopped:
            self._say_what_is_left(left)
            return chosen
        dropped = {item.path for item in left}
        return {path: source for path, source in self._loaded.items() if path not in dropped}

    def _next_batch(self, queue: deque[Candidate], room: int, left: list[Candidate]) -> list[Candidate]:
        """The next few that should fit together; those that don't fit even alone are left."""
        batch: list[Candidate] = []
        expected = 0
        while queue and len(batch) < _BATCH:
            tokens = self._estimate(queue[0])
            if tokens > room:
                left.append(queue.popleft())
            elif expected + tokens > room:
                break
            else:
                batch.append(queue.popleft())
                expected += tokens
        return batch

    async def _offer(self, client: EngineClient, batch: Sequence[Candidate]) -> dict[Candidate, str]:
        """Brings them to the engine; the sources of those that are chunks."""
        documents = self._session.documents
        fresh = [
            item for item in batch if item.path not in self._loaded and self._unusable.get(item.path) != item.modified
        ]
        reasons = await asyncio.to_thread(lambda: {item.path: why_unusable(item.path) for item in fresh})
        self._unusable |= {item.path: item.modified for item in fresh if reasons[item.path] is not None}
        sources: dict[Candidate, str] = {}
        for item in batch:
            if self._unusable.get(item.path) == item.modified:
                continue
            source = documents.offer(item.path, item.modified)
            if source is not None:
                sources[item] = self._loaded[item.path] = source
        if fresh:
            await self._session.flush(client)
        return {item: source for item, source in sources.items() if self._session.context.find_source(source)}

    def _room(self) -> int:
        """What the options allow, as far as the window has it beside all other active chunks."""
        state = self._session.context.state
        own = {source for path, source in self._loaded.items() if not self._session.documents.is_open(path)}
        others = sum(
            chunk.tokens
            for chunk in state.chunks
            if chunk.active and not chunk.parts and (chunk.origin == "user" or own.isdisjoint(chunk.sources))
        )
        return max(0, min(self._session.options.files.max_tokens, state.limit - reserved_tokens(state.limit) - others))

    def _estimate(self, item: Candidate) -> int:
        """Tokens it may take, as long as nobody has counted them."""
        source = self._loaded.get(item.path)
        if source is not None or self._session.documents.is_open(item.path):
            return 0
        return item.size // _BYTES_PER_TOKEN

    def _tokens(self, item: Candidate, source: str) -> int:
        """What it takes of this budget: nothing while it is open, or once it is the user's."""
        chunk = self._session.context.find_source(source)
        if chunk is None or chunk.origin == "user" or self._session.documents.is_open(item.path):
            return 0
        return chunk.tokens

    def _say_what_is_left(self, left: Sequence[Candidate]) -> None:
        """The latest of them; a workspace may have thousands."""
        ledger, sources = self._session.context.ledger, self._session.sources
        for source in self._listed:
            ledger.admit(source)
        self._listed = [sources.of_path(item.path) for item in sorted(left, reverse=True)[:_MOST_LEFT]]
        limit = self._session.options.files.max_tokens
        for source in self._listed:
            ledger.leave_out(source, f"beyond the {limit:,} tokens that are loaded by themselves", tell=False)


def _composition(state: ChunksResult) -> list[str]:
    return [chunk.hash for chunk in state.chunks if chunk.active]
