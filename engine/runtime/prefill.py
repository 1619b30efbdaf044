"""Prefill: brings a composition's KV into the pool, piece by piece and slice by slice, reusing all it may.

Exact unless near KV is handed to it. Knows nothing of questions, answers or devices.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.attention.base import AttentionRow
from engine.composition import Composition, Piece
from engine.hashing import TokenArray, taint_hash
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.residency import near_candidate, reused_label
from engine.types import FidelityLabel


class Prefill:
    """Walks the pieces of one composition; what it has placed stays pinned until `close`.

    Attributes:
        placements: pieces whose KV is there, end to end from position 0.
        kv_hash: hash of what the next token will really be computed under; differs from the composition's own
            from the first piece on whose KV isn't exact.
        reused, prefilled: tokens so far.
        used: for each chunk its tokens reused, tokens prefilled, and the fidelity it is used at.

    Invariant: `placements` and the piece under way are the only pins it holds.
    """

    def __init__(
        self, store: SegmentStore, composition: Composition, near_keys: Mapping[str, bytes] | None = None
    ) -> None:
        """`near_keys`: segment keys by chunk hash that may be used where nothing exact is there; None forbids it."""
        self._store = store
        self._composition = composition
        self._near_keys = near_keys or {}
        self._segment: Segment | None = None
        self._prefilled_of_piece = 0
        self._table: VirtualBlockTable | None = None
        self._exact = True
        self.placements: list[Placement] = []
        self.kv_hash = composition.base_hash
        self.reused = 0
        self.prefilled = 0
        self.used: dict[str, tuple[int, int, FidelityLabel]] = {}
        self.segment_keys: dict[str, bytes] = {}

    @property
    def position(self) -> int:
        """Tokens placed so far."""
        last = self.placements[-1] if self.placements else None
        return last.start + last.length if last else 0

    @property
    def tokens_ready(self) -> int:
        """Tokens of the composition whose KV is there, the piece under way included."""
        return self.position + (self._segment.filled if self._segment else 0)

    @property
    def table(self) -> VirtualBlockTable:
        """All that is placed, as attention reads it."""
        if self._table is None:
            self._table = VirtualBlockTable.build(self.placements, self._store.block_size)
        return self._table

    def next_slice(self, max_tokens: int) -> tuple[AttentionRow, TokenArray] | None:
        """The next tokens to compute and where; None when every piece is there.

        Raises:
            OutOfMemoryError: no room for the next piece; what is placed stays.
        """
        while (piece := self._next_piece()) is not None:
            if self._segment is None and not self._place_ready(piece):
                self._open(piece)
            if (segment := self._segment) is None:
                continue
            if not segment.complete:
                count = min(max_tokens, len(segment.tokens) - segment.filled)
                return AttentionRow(self.table, segment, count), segment.tokens[segment.filled : segment.filled + count]
            self._place_computed(piece, segment)
        return None

    def advanced(self, count: int) -> None:
        """The slice's `count` tokens are computed."""
        assert self._segment is not None
        self._segment.filled += count
        self._prefilled_of_piece += count

    def _next_piece(self) -> Piece | None:
        pieces = self._composition.pieces
        return pieces[len(self.placements)] if len(self.placements) < len(pieces) else None

    def _place_ready(self, piece: Piece) -> bool:
        """Place the piece's near KV, if nothing better is there and near is allowed."""
        exact = self._store.get(piece.key) if self._exact else None
        candidate = near_candidate(self._store, self._near_keys, piece)
        if candidate is None or (exact is not None and exact.complete):
            return False
        self._store.pin(candidate)
        label = reused_label(candidate, self._composition.pieces[0].key)
        self._place(piece, candidate, label)
        self.kv_hash = taint_hash(self.kv_hash, candidate.key)
        self._exact = False
        return True

    def _open(self, piece: Piece) -> None:
        self._segment = self._store.open(self.kv_hash, piece.tokens, self.position)

    def _place_computed(self, piece: Piece, segment: Segment) -> None:
        label = FidelityLabel.EXACT if self._exact else FidelityLabel.NEAR
        self._place(piece, segment, label)
        self.kv_hash = segment.key
        self._segment = None

    def _place(self, piece: Piece, segment: Segment, label: FidelityLabel) -> None:
        self.placements.append(Placement(segment, self.position, len(piece.tokens)))
        self._table = None
        # what another prefill computed of a segment both wait for is reused by this one
        prefilled, self._prefilled_of_piece = self._prefilled_of_piece, 0
        reused = len(piece.tokens) - prefilled
        self.reused += reused
        self.prefilled += prefilled
        if piece.chunk is not None:
            self.used[piece.chunk] = (reused, prefilled, label)
            self.segment_keys[piece.chunk] = segment.key

    def pins(self) -> list[Segment]:
        """The segments it holds, each once per pin."""
        held = [placement.segment for placement in self.placements]
        return [*held, self._segment] if self._segment else held

    def close(self) -> None:
        """Unpin everything; may be called more than once."""
        for segment in self.pins():
            self._store.unpin(segment)
        self.placements, self._segment, self._table = [], None, None


class Tail:
    """The last piece of a question and the answer behind it: a private segment that grows token by token.

    Begins when the prefill before it is complete; the last prompt token is always computed, for its logits.
    """

    def __init__(self, store: SegmentStore, prefill: Prefill, tokens: TokenArray) -> None:
        """May raise OutOfMemoryError, and then holds nothing."""
        self._store = store
        self.table = prefill.table
        self.segment = store.open_private(prefill.kv_hash, tokens, prefill.position)

    def next_slice(self, max_tokens: int) -> tuple[AttentionRow, TokenArray]:
        """The next tokens to compute: of the prompt, or the one sampled last."""
        segment = self.segment
        count = min(max_tokens, len(segment.tokens) - segment.filled)
        row = AttentionRow(self.table, segment, count)
        return row, segment.tokens[segment.filled : segment.filled + count]

    def advanced(self, count: int) -> None:
        self.segment.filled += count

    def append(self, token: int) -> None:
        self._store.append(self.segment, token)

    def close(self) -> None:
        """Keep what was computed for later questions."""
        self._store.publish(self.segment)
