"""How much of a composition's KV is there, and what it is worth: the fidelity of each piece.

Reads only; what a prefill will do with it is `runtime/prefill.py`'s business, and follows the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.composition import Composition, Piece
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from engine.types import FidelityLabel


@dataclass(frozen=True)
class Residency:
    """One piece's KV: how many of its tokens an `exact` question could reuse, and how many an `instant` one."""

    piece: Piece
    exact: int
    instant: int
    fidelity: FidelityLabel


def near_candidate(store: SegmentStore, keys: Mapping[str, bytes], piece: Piece) -> Segment | None:
    """The whole segment that last held this piece's chunk in its context, if it is still there and still fits."""
    key = keys.get(piece.chunk or "")
    segment = store.get(key) if key else None
    if segment is None or not segment.complete or len(segment.tokens) != len(piece.tokens):
        return None
    return segment if (segment.tokens == piece.tokens).all() else None


def reused_label(segment: Segment, head_key: bytes) -> FidelityLabel:
    """What KV from an earlier place is worth: computed right after the head alone, or with neighbors."""
    return FidelityLabel.ANCHORED if segment.prefix_hash == head_key else FidelityLabel.NEAR


def assess(store: SegmentStore, composition: Composition, keys: Mapping[str, bytes]) -> list[Residency]:
    """The residency of each piece, head first. `keys` are the context's near candidates by chunk hash."""
    head_key = composition.pieces[0].key if composition.pieces else composition.base_hash
    return [_assess_piece(store, piece, keys, head_key) for piece in composition.pieces]


def _assess_piece(store: SegmentStore, piece: Piece, keys: Mapping[str, bytes], head_key: bytes) -> Residency:
    tokens = len(piece.tokens)
    segment = store.get(piece.key)
    exact = segment.filled if segment else store.shareable(piece.prefix_hash, piece.tokens)[1]
    if exact == tokens:
        return Residency(piece, tokens, tokens, FidelityLabel.EXACT)
    candidate = near_candidate(store, keys, piece)
    if candidate is None:
        return Residency(piece, exact, exact, FidelityLabel.COLD)
    return Residency(piece, exact, tokens, reused_label(candidate, head_key))


def tail_reuse(store: SegmentStore, pieces: Sequence[Piece]) -> int:
    """Tokens of the tail, the last piece, that an exact question could reuse: all but the last at most."""
    tail = pieces[-1]
    return store.shareable(tail.prefix_hash, tail.tokens[:-1])[1]
