"""Whose each source is, how lately it was touched, and what was left out of the context for which reason.

Knows sources and what the engine says of chunks; asks the engine nothing and knows nothing of documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count

import attrs

from ctx_lsp.protocol import ChunkInfo, ChunksResult, LeftOut, Origin
from ctx_lsp.workspace.budget import Claim, Fit, fit


class Ledger:
    """What is known of sources beyond the engine's list of chunks.

    A source is *automatic* while it came by itself; every other one is the user's. A chunk is automatic while all of
    its sources are, and it carries neither pin nor tag.

    Invariants: a source is in `_automatic` or in `_users`, never in both; `_yielded` is part of `_users`.
    """

    def __init__(self, on_left_out: Callable[[LeftOut], None]) -> None:
        self._on_left_out = on_left_out
        self._clock = count(1)
        self._automatic: dict[str, float] = {}
        self._users: dict[str, float] = {}
        self._touched: dict[str, float] = {}
        self._yielded: set[str] = set()
        self._absent: dict[str, LeftOut] = {}
        self._inactive: dict[str, LeftOut] = {}

    # -- whose ---------------------------------------------------------------------------------------------------------

    def is_users(self, source: str) -> bool:
        """Whether the user asked for it, or decided something about it."""
        return source in self._users

    def take(self, sources: Iterable[str]) -> None:
        """These are the user's from now on."""
        for source in sources:
            self._automatic.pop(source, None)
            self._users.setdefault(source, next(self._clock))
            self._yielded.discard(source)

    def give(self, source: str, modified: float = 0.0) -> None:
        """This came by itself, unless the user had asked for it. `modified`: when the file was changed."""
        if source not in self._users:
            self._automatic[source] = max(modified, self._automatic.get(source, 0.0))

    def touch(self, source: str) -> None:
        """The user does something with it."""
        self._touched[source] = next(self._clock)

    def rename(self, old: str, new: str) -> None:
        for book in (self._automatic, self._users, self._touched):
            if old in book:
                book[new] = book.pop(old)
        if old in self._yielded:
            self._yielded.remove(old)
            self._yielded.add(new)

    def forget(self, sources: Iterable[str]) -> None:
        for source in sources:
            for book in (self._automatic, self._users, self._touched):
                book.pop(source, None)
            self._absent.pop(source, None)
            self._yielded.discard(source)

    # -- what was left out ---------------------------------------------------------------------------------------------

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """First what is no chunk, then the chunks for which there is no room."""
        return tuple(dict.fromkeys((*self._absent.values(), *self._inactive.values())))

    def leave_out(self, source: str, reason: str, tokens: int | None = None, *, tell: bool = True) -> None:
        """It is no chunk, for this reason."""
        item = LeftOut(source=source, tokens=tokens, reason=reason)
        if self._absent.get(source) != item:
            self._absent[source] = item
            if tell:
                self._on_left_out(item)

    def admit(self, source: str) -> None:
        """Nothing keeps it from being a chunk any more."""
        self._absent.pop(source, None)

    def why_left_out(self, source: str) -> str | None:
        item = self._absent.get(source) or self._inactive.get(source)
        return None if item is None else item.reason

    # -- room ----------------------------------------------------------------------------------------------------------

    def origin(self, chunk: ChunkInfo) -> Origin:
        is_automatic = not chunk.pinned and not chunk.tags and all(name in self._automatic for name in chunk.sources)
        return "automatic" if is_automatic else "user"

    def annotate(self, state: ChunksResult) -> ChunksResult:
        """The engine's list with what only this knows."""
        chunks = tuple(attrs.evolve(chunk, origin=self.origin(chunk)) for chunk in state.chunks)
        return attrs.evolve(state, chunks=chunks, left_out=self.left_out)

    def balance(self, state: ChunksResult) -> dict[str, bool]:
        """The chunks, by hash, whose activity has to change so that all the active ones fit.

        An automatic chunk is active wherever there is room; one of the user's only if the user has it so.
        """
        tokens = {chunk.hash: chunk.tokens for chunk in state.chunks}
        wanted = {chunk.hash: chunk for chunk in state.chunks if self._wants_room(chunk)}
        verdict = fit((self._claim(chunk, tokens) for chunk in wanted.values()), state.limit)
        self._write_down(verdict, wanted)
        return {
            hash: hash in verdict.active for hash, chunk in wanted.items() if chunk.active != (hash in verdict.active)
        }

    def needed(self, chunks: Iterable[ChunkInfo], state: ChunksResult) -> int:
        """Tokens of these and of all active chunks of the user's."""
        tokens = {chunk.hash: chunk.tokens for chunk in state.chunks}
        users = (chunk for chunk in state.chunks if chunk.active and self.origin(chunk) == "user")
        leaves: dict[str, int] = {}
        for chunk in (*chunks, *users):
            leaves |= _leaves(chunk, tokens)
        return sum(leaves.values())

    def _wants_room(self, chunk: ChunkInfo) -> bool:
        if self.origin(chunk) == "automatic":
            return True
        if chunk.active:
            self.take(name for name in chunk.sources if name not in self._users and name not in self._automatic)
        return chunk.active or not self._yielded.isdisjoint(chunk.sources)

    def _claim(self, chunk: ChunkInfo, tokens: Mapping[str, int]) -> Claim:
        origin = self.origin(chunk)
        if origin == "user":  # who came first stays
            rank = (-min((self._users[name] for name in chunk.sources if name in self._users), default=0.0),)
            return Claim(chunk.hash, _leaves(chunk, tokens), origin, rank)
        touched = max(self._touched.get(name, 0) for name in chunk.sources)
        modified = max(self._automatic[name] for name in chunk.sources)
        return Claim(chunk.hash, _leaves(chunk, tokens), origin, (touched, modified))

    def _write_down(self, verdict: Fit, wanted: Mapping[str, ChunkInfo]) -> None:
        before, self._inactive = self._inactive, {}
        for hash in verdict.active:
            self._yielded -= set(wanted[hash].sources)
        for hash, reason in verdict.left_out.items():
            chunk = wanted[hash]
            item = LeftOut(source=chunk.name, tokens=chunk.tokens, reason=reason)
            self._inactive |= dict.fromkeys(chunk.sources, item)
            if self.origin(chunk) == "user":
                self._yielded |= set(chunk.sources)
            if chunk.name not in before:
                self._on_left_out(item)


def _leaves(chunk: ChunkInfo, tokens: Mapping[str, int]) -> dict[str, int]:
    """What the prompt shows for it: a composition's parts, or itself."""
    return {hash: tokens.get(hash, 0) for hash in chunk.parts} or {chunk.hash: chunk.tokens}
