"""ContextManager: one context's ordered chunks — which are active, what they are called, what they are composed of.

Text and tokens only; knows nothing of KV, models or threads (the engine's lock guards it).
"""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Protocol

from engine.chunk import Chunk
from engine.chunk_frame import ChunkText
from engine.chunk_kv import ChunkKV
from engine.composition import Composition
from engine.config import Order
from engine.errors import AmbiguousChunkError, EmptyChunkError, InvalidRequestError, UnknownChunkError
from engine.hashing import TokenArray, token_array
from engine.types import ChunkKind

MIN_PREFIX = 4
_VERSIONS_KEPT = 256


class PieceBuilder(Protocol):
    """What makes pieces of a prompt: an engine's `PromptBuilder`, or a front's that only counts tokens."""

    def head(self, instructions: str | None = None) -> Sequence[int]: ...

    def chunk(self, chunk: ChunkText) -> Sequence[int]: ...

    def chunk_text(self, chunk: ChunkText) -> str: ...


class ContextManager:
    """The chunks of one context in prompt order.

    Invariants: hashes are unique; a source names at most one chunk; every chunk has a source; parts of a composition
    are chunks of this context and no compositions themselves.

    Attributes:
        id: chosen by the caller.
        instructions: the system message's own text; None takes the prompt builder's.
        order: where an edited chunk goes: `recency` moves it to the end unless it is pinned, `fixed` leaves it. It
            moves when the order is settled, which is when KV behind its old place is computed anew in any case.
        kv: for each chunk hash where its KV was last, or that of the version it has replaced.
        kept_up: whether its chunks' KV is computed in the background, as it changes.
        upheld: key of the composition that this has made exact last.
        turns: answers given so far.
    """

    def __init__(self, id: str, builder: PieceBuilder, base_hash: bytes, instructions: str | None = None) -> None:
        self.id = id
        self.instructions = instructions
        self.order: Order = "recency"
        self.kv: dict[str, ChunkKV] = {}
        self.kept_up = False
        self.upheld: bytes | None = None
        self.turns = 0
        self._builder = builder
        self._base_hash = base_hash
        self._chunks: list[Chunk] = []
        self._composition: Composition | None = None
        self._settled: Composition | None = None
        self._going: list[str] = []
        self._versions: dict[str, deque[str]] = {}

    # -- reading ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._chunks)

    def find(self, ref: str) -> Chunk:
        """The chunk that `ref` means: a source or a name, a hash, or a unique prefix of one of ≥ 4 hex digits."""
        if not isinstance(ref, str) or not ref:
            raise InvalidRequestError("A chunk is named by a hash, a hash prefix, or a source, as a non-empty string.")
        for chunk in self._chunks:
            if ref in chunk.sources:
                return chunk
        if set(ref.lower()) <= set(string.hexdigits):
            return self._find_by_prefix(ref.lower())
        raise UnknownChunkError(f"No chunk is called {ref!r}. List the chunks to see their names and hashes.", ref=ref)

    def _find_by_prefix(self, prefix: str) -> Chunk:
        if len(prefix) < MIN_PREFIX:
            raise InvalidRequestError(f"A hash prefix needs at least {MIN_PREFIX} digits, {prefix!r} has fewer.")
        found = [chunk for chunk in self._chunks if chunk.hash.startswith(prefix)]
        if not found:
            raise UnknownChunkError(f"No chunk's hash begins with {prefix!r}.", ref=prefix)
        if len(found) > 1:
            candidates = [chunk.hash for chunk in found]
            raise AmbiguousChunkError(
                f"{len(found)} chunks' hashes begin with {prefix!r}: give more digits.", candidates=candidates
            )
        return found[0]

    def composition(self) -> Composition:
        """Head and active chunks; each chunk once, at its first place, compositions as their parts."""
        if self._composition is None:
            self._composition = self.compose_pieces(self.active_leaves(), self.instructions)
        return self._composition

    def settled(self) -> Composition:
        """The composition as it would be with all edited chunks where they go."""
        if not self._going:
            return self.composition()
        if self._settled is None:
            leaves = self.leaves(chunk for chunk in self._settled_order() if chunk.active)
            self._settled = self.compose_pieces(leaves, self.instructions)
        return self._settled

    def going(self) -> list[Chunk]:
        """Edited chunks that are not yet where they go."""
        return list(dict.fromkeys(self.find(source) for source in self._going))

    def _settled_order(self) -> list[Chunk]:
        going = self.going()
        return [*(chunk for chunk in self._chunks if chunk not in going), *going]

    def compose_pieces(self, chunks: Iterable[Chunk], instructions: str | None) -> Composition:
        """Head, then one piece per chunk."""
        composition = Composition(self._base_hash).then(token_array(self._builder.head(instructions)))
        for chunk in chunks:
            composition = composition.then(chunk.tokens, chunk.hash)
        return composition

    def active_leaves(self) -> list[Chunk]:
        """The chunks the prompt shows, in its order."""
        return self.leaves(chunk for chunk in self._chunks if chunk.active)

    def leaves(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """The chunks, with compositions as their parts, each once."""
        by_hash = {chunk.hash: chunk for chunk in self._chunks}
        hashes = dict.fromkeys(hash for chunk in chunks for hash in chunk.parts or (chunk.hash,))
        return [by_hash[hash] for hash in hashes]

    def versions(self) -> dict[str, Set[str]]:
        """For each chunk's hash those of earlier versions of it."""
        return {
            chunk.hash: frozenset().union(*(self._versions.get(source, ()) for source in chunk.sources))
            for chunk in self._chunks
        }

    def answers(self) -> dict[str, tuple[int, ...]]:
        """Token ids of the answers given here, by their text."""
        return {chunk.text: chunk.generated for chunk in self._chunks if chunk.generated}

    # -- changing --------------------------------------------------------------------------------------------------

    def encode(self, text: str, kind: ChunkKind, sources: tuple[str, ...]) -> TokenArray:
        """The text as a piece of the prompt. Slow for long texts, and touches no state: call it before locking."""
        if not text:
            raise EmptyChunkError("A chunk must hold at least one character; this one is empty.", sources=sources)
        return token_array(self._builder.chunk(ChunkText(text, sources, kind, sources[0])))

    def add(self, chunk: Chunk) -> Chunk:
        """Add `chunk`, which has one source. What that source named before is replaced (an edit)."""
        source = chunk.sources[0]
        old = next((other for other in self._chunks if source in other.sources), None)
        if old is not None and old.hash == chunk.hash:
            return old
        if old is not None and ChunkKind.COMPOSITION in (old.kind, chunk.kind) and old.kind is not chunk.kind:
            raise InvalidRequestError(f"{source!r} names a chunk of kind {old.kind} already: choose another name.")
        same = next((other for other in self._chunks if other.hash == chunk.hash), None)
        if same is not None:
            return self._add_source(same, chunk, old)
        if old is None:
            self._chunks.append(chunk)
        else:
            tags = tuple(dict.fromkeys((*old.tags, *chunk.tags)))
            chunk = replace(chunk, active=old.active, pinned=old.pinned, tags=tags)
            self._replace_source(old, source, chunk)
            self._edited(chunk, source)
            self._versions.setdefault(source, deque(maxlen=_VERSIONS_KEPT)).append(old.hash)
        self._changed()
        return chunk

    def _add_source(self, same: Chunk, chunk: Chunk, old: Chunk | None) -> Chunk:
        """`chunk`'s text is here already as `same`: it gets another source, which `old` loses."""
        source = chunk.sources[0]
        if old is not None:
            self.remove_source(source)
        same = self.find(same.hash)
        tags = tuple(dict.fromkeys((*same.tags, *chunk.tags)))
        same = self._put(same, replace(same, tags=tags, generated=same.generated or chunk.generated))
        if chunk.kind is ChunkKind.OUTPUT and same.kind is not ChunkKind.OUTPUT:
            return same  # an answer that repeats a file's text must not change how the prompt names the file
        return self._put(same, self._named(same, (*same.sources, source)))

    def _replace_source(self, old: Chunk, source: str, chunk: Chunk) -> None:
        if old.hash in self.kv:
            self.kv.setdefault(chunk.hash, self.kv[old.hash])
        if old.sources == (source,):
            self._chunks[self._chunks.index(old)] = chunk
            self._swap_part(old.hash, chunk.hash)
        else:
            self._chunks.insert(self._chunks.index(old) + 1, chunk)
            self._put(old, self._named(old, tuple(name for name in old.sources if name != source)))

    def _edited(self, chunk: Chunk, source: str) -> None:
        """Under `recency` the chunk goes to the end: the next edits to it, the likely ones, then cost only itself."""
        if self.order == "recency" and not chunk.pinned and chunk.kind is not ChunkKind.COMPOSITION:
            self._going = [*(other for other in self._going if other != source), source]

    def settle(self) -> bool:
        """Let the edited chunks go where they go; False if none was to go anywhere."""
        order = self._settled_order()
        moved, self._going = order != self._chunks, []
        self._chunks = order
        if moved:
            self._changed()
        return moved

    def remove_source(self, source: str) -> None:
        """Forget a source; the chunk goes with its last one. An unknown source is no error: it is gone."""
        for chunk in self._chunks:
            if source in chunk.sources:
                rest = tuple(name for name in chunk.sources if name != source)
                if rest:
                    self._put(chunk, self._named(chunk, rest))
                else:
                    self.delete(chunk.hash)
                return

    def next_turn(self) -> tuple[int, str]:
        """Count an answer; its number and its source, which names no chunk yet (a front may have restored old ones)."""
        taken = {source for chunk in self._chunks for source in chunk.sources}
        self.turns += 1
        while f"answer {self.turns}" in taken:
            self.turns += 1
        return self.turns, f"answer {self.turns}"

    def set_instructions(self, instructions: str) -> None:
        """Take another system message's text from the next question on."""
        self.instructions = instructions
        self._changed()

    def set_order(self, order: Order) -> None:
        """Say where edited chunks go from now on; in a fixed order none is on its way any more."""
        self.order = order
        if order == "fixed":
            self._going = []
            self._changed()

    def set_active(self, refs: Sequence[str], active: bool) -> list[Chunk]:
        """Switch all the chunks, or none if one of the refs is bad."""
        chunks = [self.find(ref) for ref in refs]
        return [self._put(self.find(chunk.hash), replace(chunk, active=active)) for chunk in chunks]

    def set_pinned(self, refs: Sequence[str], pinned: bool) -> list[Chunk]:
        """Pin all the chunks to their places, or let them go, or none if one of the refs is bad."""
        chunks = [self.find(ref) for ref in refs]
        if pinned:
            self._stay(*chunks)
        return [self._put(self.find(chunk.hash), replace(chunk, pinned=pinned)) for chunk in chunks]

    def _stay(self, *chunks: Chunk) -> None:
        """These were put where they are on purpose."""
        staying = {source for chunk in chunks for source in chunk.sources}
        self._going = [source for source in self._going if source not in staying]

    def move(self, ref: str, position: int) -> Chunk:
        """Put a chunk at index `position` of the order; negative counts from the end, beyond the ends is the end."""
        chunk = self.find(ref)
        others = [other for other in self._chunks if other is not chunk]
        if position < 0:
            position += len(self._chunks)
        others.insert(max(0, min(position, len(others))), chunk)
        self._chunks = others
        self._stay(chunk)
        self._changed()
        return chunk

    def compose(self, refs: Sequence[str], name: str) -> Chunk:
        """A composition of the chunks in this order under `name`; one of that name is replaced."""
        if not name:
            raise InvalidRequestError("A composition needs a name.")
        parts = self.leaves([self.find(ref) for ref in refs])
        if not parts:
            raise InvalidRequestError("A composition needs at least one chunk.")
        return self.add(self._composed(parts, (name,)))

    def _composed(self, parts: Sequence[Chunk], sources: tuple[str, ...]) -> Chunk:
        text = "".join(
            self._builder.chunk_text(ChunkText(part.text, part.sources, part.kind, part.name)) for part in parts
        )
        hashes = tuple(part.hash for part in parts)
        return Chunk(text, ChunkKind.COMPOSITION, token_array([]), sources, parts=hashes)

    def set_tags(self, ref: str, tags: Iterable[str]) -> Chunk:
        chunk = self.find(ref)
        return self._put(chunk, replace(chunk, tags=tuple(dict.fromkeys(tags))))

    def delete(self, *refs: str) -> list[str]:
        """Delete the chunks, or none if one of the refs is bad; compositions lose these parts."""
        hashes = list(dict.fromkeys(self.find(ref).hash for ref in refs))
        self._chunks = [chunk for chunk in self._chunks if chunk.hash not in hashes]
        for hash in hashes:
            self._swap_part(hash, None)
        self._changed()
        return hashes

    def clear(self, kind: ChunkKind | None = None) -> None:
        """Delete all chunks, or those of one kind."""
        self.delete(*(chunk.hash for chunk in self._chunks if kind in (None, chunk.kind)))

    def remember_kv(self, kv: Mapping[str, ChunkKV]) -> None:
        """Note where the chunks' KV is now; chunks that are gone meanwhile are passed over."""
        hashes = {chunk.hash for chunk in self._chunks}
        self.kv.update((hash, chunk_kv) for hash, chunk_kv in kv.items() if hash in hashes)

    # -- keeping the invariants ------------------------------------------------------------------------------------

    def _put(self, old: Chunk, new: Chunk) -> Chunk:
        self._chunks[self._chunks.index(old)] = new
        if new.sources != old.sources:
            self._swap_part(new.hash, new.hash)
        self._changed()
        return new

    def _named(self, chunk: Chunk, sources: tuple[str, ...]) -> Chunk:
        """The chunk with these sources, which its frame in the prompt shows."""
        if chunk.kind is ChunkKind.COMPOSITION:
            return replace(chunk, sources=sources)
        return replace(chunk, sources=sources, tokens=self.encode(chunk.text, chunk.kind, sources))

    def _swap_part(self, old: str, new: str | None) -> None:
        """Compositions of the chunk `old` get `new` in its place, or go when nothing is left of them."""
        for chunk in [chunk for chunk in self._chunks if old in chunk.parts]:
            hashes = dict.fromkeys(new if part == old else part for part in chunk.parts)
            parts = [self.find(hash) for hash in hashes if hash is not None]
            if not parts:
                self._chunks.remove(chunk)
                continue
            composed = replace(self._composed(parts, chunk.sources), tags=chunk.tags, active=chunk.active)
            twin = next((other for other in self._chunks if other.hash == composed.hash), None)
            if twin is None or twin is chunk:
                self._chunks[self._chunks.index(chunk)] = composed
            else:  # it has become what another composition is already: one chunk with both names
                self._chunks.remove(chunk)
                self._put(twin, replace(twin, sources=(*twin.sources, *chunk.sources)))

    def _changed(self) -> None:
        self._composition = self._settled = None
        hashes = {chunk.hash for chunk in self._chunks}
        sources = {source for chunk in self._chunks for source in chunk.sources}
        self.kv = {hash: chunk_kv for hash, chunk_kv in self.kv.items() if hash in hashes}
        self._versions = {source: old for source, old in self._versions.items() if source in sources}
        self._going = [source for source in self._going if source in sources]

    def check_integrity(self) -> None:
        """Assert the class's invariants, and that the cached composition is what it would be anew."""
        hashes = [chunk.hash for chunk in self._chunks]
        assert len(set(hashes)) == len(hashes), "a hash occurs twice"
        sources = [source for chunk in self._chunks for source in chunk.sources]
        assert len(set(sources)) == len(sources), "a source names two chunks"
        by_hash = {chunk.hash: chunk for chunk in self._chunks}
        for chunk in self._chunks:
            assert chunk.sources, "a chunk has no source"
            assert (chunk.kind is ChunkKind.COMPOSITION) == bool(chunk.parts)
            assert all(by_hash[part].kind is not ChunkKind.COMPOSITION for part in chunk.parts), "a part is composed"
        assert self.kv.keys() <= by_hash.keys(), "KV is remembered for a chunk that is gone"
        assert self._versions.keys() <= set(sources), "versions are remembered of a source that is gone"
        assert len(set(self._going)) == len(self._going), "a source goes to the end twice"
        assert set(self._going) <= set(sources), "a source that is gone goes to the end"
        fresh = self.compose_pieces(self.active_leaves(), self.instructions)
        assert self.composition().key == fresh.key, "the cached composition is out of date"
