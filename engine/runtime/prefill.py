"""Prefill: brings a composition's KV into the pool, piece by piece and slice by slice, reusing all it may.

Exact unless near KV is handed to it; what is reused and what computed is `engine/reuse.py`'s say. Knows nothing of
questions, answers or devices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.attention.base import AttentionRow, RowResult
from engine.chunk_kv import ChunkKV, Span
from engine.composition import Composition, Piece
from engine.errors import OutOfMemoryError
from engine.hashing import TokenArray
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.reuse import NearKV, Part, parts_of
from engine.types import FidelityLabel

_NO_DRAFT: TokenArray = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Slice:
    """Tokens to compute in one step, int32 [row.num_tokens]; logits are wanted behind the last `samples` of them."""

    row: AttentionRow
    tokens: TokenArray
    samples: int = 0


@dataclass
class _PieceUse:
    """A piece under way: what is still to be placed, and what it has cost."""

    piece: Piece
    parts: deque[Part]
    label: FidelityLabel
    spans: list[Span]
    prefilled: int = 0


@dataclass(frozen=True)
class _InFlight:
    """A slice that was handed out: `count` tokens of a segment, for a piece behind `pieces`."""

    segment: Segment
    count: int
    use: _PieceUse
    pieces: tuple[str, ...]


class Prefill:
    """Walks the pieces of one composition; what it has placed stays pinned until `close`.

    Attributes:
        kv_hash: hash of what the next token will really be computed under; differs from the composition's own
            from the first piece on whose KV isn't exact.
        prefilled: tokens computed so far.

    Invariants: the placements and the segment under way are the only pins it holds; placements are complete but for
    those that the step under way completes.
    """

    def __init__(self, store: SegmentStore, composition: Composition, near: NearKV | None = None) -> None:
        """`near`: what may be used where nothing exact is there; None forbids it."""
        self._store = store
        self._composition = composition
        self._near = near
        self._head_key = composition.pieces[0].key if composition.pieces else composition.base_hash
        self._uses: list[_PieceUse] = []
        self._segment: Segment | None = None
        self._in_flight: list[_InFlight] = []
        self._seen: frozenset[str] = frozenset()
        self._begins: dict[str, int] = {}
        self._placements: list[Placement] = []
        self._table = VirtualBlockTable.build((), store.block_size)
        self._tokens = 0
        self.kv_hash = composition.base_hash
        self.prefilled = 0

    @property
    def table(self) -> VirtualBlockTable:
        """All that is placed."""
        if self._table.tokens < self._tokens:
            # mostly many placements at once: between those that are there already nobody asks
            behind = next(index for index, one in enumerate(self._placements) if one.start >= self._table.tokens)
            self._table = self._table.then(*self._placements[behind:])
        return self._table

    # -- the next tokens -------------------------------------------------------------------------------------------

    def position(self) -> int:
        """Where the next token to compute stands, once all before it that is there is placed.

        Raises:
            OutOfMemoryError: as `next_slices`.
        """
        segment = self._next_segment()
        return self._tokens + (segment.filled if segment is not None else 0)

    def next_slices(self, max_tokens: int) -> list[Slice]:
        """The next tokens to compute and where; none when every piece is there.

        Later slices attend to earlier ones. A model with a state gets one at a time, since each needs the state that
        the one before leaves.

        Raises:
            OutOfMemoryError: no room for the next piece; what is placed stays.
        """
        slices: list[Slice] = []
        while max_tokens > 0 and not (slices and self._store.stateful):
            try:
                segment = self._next_segment()
            except OutOfMemoryError:
                if slices:
                    break
                raise
            if segment is None:
                break
            count = min(max_tokens, len(segment.tokens) - segment.filled)
            slices.append(self._slice(segment, count))
            max_tokens -= count
            if segment.filled + count == len(segment.tokens):
                self._place_computed(segment)
        return slices

    def _next_segment(self) -> Segment | None:
        """Place what is there; the segment that lacks tokens, or None when all pieces are placed."""
        while True:
            if self._segment is not None:
                if not self._segment.complete:
                    return self._segment
                self._place_computed(self._segment)
            use = self._use()
            if use is None:
                return None
            part = use.parts[0]
            if part.segment is not None:
                self._store.pin(part.segment)
                self._place(use, part, part.segment)
            else:
                tokens = use.piece.tokens[part.first : part.first + part.length]
                self._segment = self._store.open(self.kv_hash, tokens, self._tokens, self._seen)

    def _use(self) -> _PieceUse | None:
        """The first piece with parts to be placed, begun if need be; None when there is none."""
        if self._uses and self._uses[-1].parts:
            return self._uses[-1]
        if len(self._uses) == len(self._composition.pieces):
            return None
        piece = self._composition.pieces[len(self._uses)]
        if self._uses:
            before = self._uses[-1].piece
            self._seen |= {before.identity}
            self._begins[before.identity] = before.start
        found = parts_of(self._store, piece, self.kv_hash, self._near, self._head_key)
        self._uses.append(_PieceUse(piece, deque(found.parts), found.label, []))
        return self._uses[-1]

    def _slice(self, segment: Segment, count: int) -> Slice:
        use = self._uses[-1]
        self._in_flight.append(_InFlight(segment, count, use, tuple(self._begins)))
        state = segment.state if segment.filled else self.state
        row = AttentionRow(self.table, segment, count, state, tuple(self._begins.values()))
        return Slice(row, segment.tokens[segment.filled : segment.filled + count])

    def _place_computed(self, segment: Segment) -> None:
        use = self._uses[-1]
        self._segment = None
        self._place(use, use.parts[0], segment)

    def _place(self, use: _PieceUse, part: Part, segment: Segment) -> None:
        use.parts.popleft()
        self._placements.append(Placement(segment, self._tokens, part.length, part.offset))
        self._tokens += part.length
        self.kv_hash = part.kv_hash(self.kv_hash, use.piece.tokens)
        use.spans.append(part.span(segment))

    def advanced(self, results: Sequence[RowResult]) -> None:
        """The slices handed out last are computed, with these results."""
        for slice_, result in zip(self._in_flight, results, strict=True):
            if result.read is not None:
                slice_.segment.note_read(slice_.pieces, result.read)
            slice_.segment.filled += slice_.count
            slice_.segment.state = result.state
            slice_.use.prefilled += slice_.count
            self.prefilled += slice_.count
        self._in_flight.clear()

    @property
    def in_flight(self) -> int:
        """Slices handed out and not yet computed."""
        return len(self._in_flight)

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Every piece is placed, if only by the step under way."""
        return len(self._uses) == len(self._composition.pieces) and not (self._uses and self._uses[-1].parts)

    @property
    def exact(self) -> bool:
        """All that is placed is what a cold run would compute."""
        return all(use.label is FidelityLabel.EXACT for use in self._uses)

    @property
    def state(self) -> object | None:
        """What a model with a state carries behind everything placed."""
        return self._placements[-1].segment.state if self._placements else None

    @property
    def tokens_ready(self) -> int:
        """Tokens of the composition whose KV is there, the piece under way included."""
        in_flight = sum(item.count for item in self._in_flight if item.segment is not self._segment)
        return self._tokens - in_flight + (self._segment.filled if self._segment else 0)

    @property
    def used(self) -> dict[str, tuple[int, int, FidelityLabel]]:
        """For each chunk placed its tokens reused, tokens computed, and the fidelity it is used at."""
        return {
            use.piece.chunk: (len(use.piece.tokens) - use.prefilled, use.prefilled, use.label)
            for use in self._uses
            if use.piece.chunk is not None and not use.parts
        }

    @property
    def kv(self) -> dict[str, ChunkKV]:
        """For each chunk that is there where its KV is."""
        unfinished = {id(item.use) for item in self._in_flight}
        return {
            use.piece.chunk: ChunkKV(use.piece.tokens, tuple(use.spans))
            for use in self._uses
            if use.piece.chunk is not None and not use.parts and id(use) not in unfinished
        }

    def pins(self) -> list[Segment]:
        """The segments it holds, each once per pin."""
        held = [placement.segment for placement in self._placements]
        return [*held, self._segment] if self._segment else held

    def close(self) -> None:
        """Unpin everything; may be called more than once."""
        for segment in self.pins():
            self._store.unpin(segment)
        self._placements, self._segment = [], None


class Tail:
    """The last piece of a question and the answer behind it: a private segment that grows token by token.

    Begins when all before it is placed; the last prompt token is always computed, for its logits. The KV of a draft is
    written behind the segment's tokens; it counts from when a drafted token is appended as one that was accepted, else
    it is written over.
    """

    def __init__(self, store: SegmentStore, prefill: Prefill, tokens: TokenArray) -> None:
        """May raise OutOfMemoryError, and then holds nothing."""
        self._store = store
        self._prefill = prefill
        self._table = prefill.table
        self.segment = store.open_private(prefill.kv_hash, tokens, self._table.tokens)
        self._in_flight = 0

    @property
    def position(self) -> int:
        """Where the next token to compute stands."""
        return self._table.tokens + self.segment.filled

    def next_slice(self, max_tokens: int, draft: TokenArray = _NO_DRAFT) -> Slice:
        """The next tokens to compute: of the prompt, or the one sampled last with as much of `draft` as has room."""
        segment = self.segment
        count = min(max_tokens, len(segment.tokens) - segment.filled)
        tokens = segment.tokens[segment.filled : segment.filled + count]
        samples = int(segment.filled + count == len(segment.tokens))
        if len(draft):
            draft = draft[: self._store.reserve(segment, len(draft))]
            tokens, samples = np.concatenate((tokens, draft)), samples + len(draft)
        row = AttentionRow(self._table, segment, len(tokens), segment.state if segment.filled else self._prefill.state)
        self._in_flight = count
        return Slice(row, tokens, samples)

    def advanced(self, state: object | None) -> int:
        """The last slice is computed; returns how many tokens it had."""
        computed, self._in_flight = self._in_flight, 0
        self.segment.filled += computed
        self.segment.state = state
        return computed

    def append(self, token: int, *, computed: bool = False) -> None:
        """Add a token of the answer; `computed`: as part of a draft it has KV already."""
        self._store.append(self.segment, token)
        self.segment.filled += computed

    def has_room(self, count: int) -> bool:
        """Whether so many tokens can be appended now."""
        return self._store.has_room(self.segment, count)

    def trim(self) -> None:
        """Give back what was reserved for a draft and is not needed."""
        self._store.trim(self.segment)

    def close(self) -> None:
        """Keep what was computed for later questions; with a state, which only whole segments keep, it serves none."""
        (self._store.discard if self._store.stateful else self._store.publish)(self.segment)
