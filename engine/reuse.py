"""Which tokens of a piece are reused and which computed, and what its KV is then worth.

The one place that says so: a prefill carries it out piece by piece, a plan walks ahead of it. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.chunk_kv import ChunkKV, Span
from engine.composition import Composition, Piece
from engine.hashing import TokenArray, extend_hash, taint_hash
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from engine.repair import Repair, Repairs, Window
from engine.types import FidelityLabel


@dataclass(frozen=True)
class NearKV:
    """What a question may use besides exact KV.

    Attributes:
        kv: where the chunks' KV was last, by chunk hash; looked at when a piece's turn comes.
        repairs: what of it is computed anew, as `repair` says.
    """

    kv: Mapping[str, ChunkKV]
    repairs: Repairs
    repair: Repair


@dataclass(frozen=True)
class Part:
    """Tokens [first, first + length) of a piece: reused from `segment`, its token `offset` on, or computed if None."""

    first: int
    length: int
    segment: Segment | None = None
    offset: int = 0

    def kv_hash(self, before: bytes, tokens: TokenArray) -> bytes:
        """Hash of what stands before the next token, if it was `before` at this part; `tokens` are the piece's."""
        if self.segment is None:
            return extend_hash(before, tokens[self.first : self.first + self.length])
        if self.segment.prefix_hash == before and not self.offset and self.length == len(self.segment.tokens):
            return self.segment.key
        return taint_hash(before, self.segment.key, self.offset, self.length)

    def span(self, segment: Segment) -> Span:
        """Where its KV is, once `segment` holds it."""
        return Span(segment.key, self.offset, self.length)


@dataclass(frozen=True)
class PieceParts:
    """A piece's parts, end to end; `kv_hash` is that of what stands behind them.

    Attributes:
        label: of its KV when all parts are there.
        there: whether all its KV is there already, repairs apart.
    """

    parts: tuple[Part, ...]
    kv_hash: bytes
    label: FidelityLabel
    there: bool


def parts_of(store: SegmentStore, piece: Piece, kv_hash: bytes, near: NearKV | None, head_key: bytes) -> PieceParts:
    """How `piece` gets its KV when what stands before it hashes to `kv_hash`."""
    for key in (extend_hash(kv_hash, piece.tokens), *((piece.key,) if near else ())):
        whole = store.get(key)
        if whole is not None and whole.complete:
            return _finished(piece, kv_hash, (Part(0, len(piece.tokens), whole),), head_key, there=True)
    runs = _runs(store, piece, kv_hash, near) if near else []
    there = sum(run.length for run in runs) == len(piece.tokens)
    windows = near.repairs.windows.get(piece.chunk or "", ()) if near else ()
    repaired = list(_repaired(runs, windows, near.repair)) if near else []
    return _finished(piece, kv_hash, tuple(_with_gaps(repaired, len(piece.tokens))), head_key, there=there)


def _finished(piece: Piece, kv_hash: bytes, parts: tuple[Part, ...], head_key: bytes, *, there: bool) -> PieceParts:
    for part in parts:
        kv_hash = part.kv_hash(kv_hash, piece.tokens)
    return PieceParts(parts, kv_hash, _label(piece, parts, kv_hash, head_key), there)


def _label(piece: Piece, parts: tuple[Part, ...], kv_hash: bytes, head_key: bytes) -> FidelityLabel:
    reused = [part.segment for part in parts if part.segment is not None]
    if kv_hash == piece.key or [segment.key for segment in reused] == [piece.key]:
        return FidelityLabel.EXACT
    anchored = piece.prefix_hash != head_key and any(segment.prefix_hash == head_key for segment in reused)
    return FidelityLabel.ANCHORED if anchored else FidelityLabel.NEAR


def _runs(store: SegmentStore, piece: Piece, kv_hash: bytes, near: NearKV) -> list[Part]:
    """What of the chunk's last KV is still there, still fits, and is worth a run of its own."""
    runs: list[Part] = []
    chunk_kv = near.kv.get(piece.chunk or "")
    for match in chunk_kv.matches(piece.tokens) if chunk_kv else ():
        span = match.span
        segment = store.get(span.key)
        fits = segment is not None and segment.filled >= span.offset + span.length
        if fits and span.length >= min(near.repair.shortest, len(piece.tokens)):
            runs.append(Part(match.first, span.length, segment, span.offset))
    if runs and _goes_on_exactly(runs, kv_hash):
        del runs[0]
    return runs


def _goes_on_exactly(runs: Sequence[Part], kv_hash: bytes) -> bool:
    """Whether the first run is exact and ends where something must be computed.

    A segment opened for both shares the run's blocks, and is exact as a whole.
    """
    first = runs[0]
    exact = first.segment is not None and first.segment.prefix_hash == kv_hash and first.first == first.offset == 0
    return exact and not (len(runs) > 1 and runs[1].first == first.length)


def _repaired(runs: Sequence[Part], windows: Sequence[Window], repair: Repair) -> Iterator[Part]:
    """The runs without what is to be computed anew: the windows, and the seam behind a change."""
    end = 0
    for run in runs:
        seam = [(run.first, repair.seam)] if run.first > end else []
        end = run.first + run.length
        for first, last in _outside(run, sorted([*seam, *windows])):
            if last - first >= min(repair.shortest, run.length):
                yield Part(first, last - first, run.segment, run.offset + first - run.first)


def _outside(run: Part, windows: Sequence[Window]) -> Iterator[tuple[int, int]]:
    """What of the run lies in no window, as (first, end)."""
    first, end = run.first, run.first + run.length
    for start, length in windows:
        if first < min(start, end):
            yield first, min(start, end)
        first = max(first, start + length)
    if first < end:
        yield first, end


def _with_gaps(runs: Sequence[Part], length: int) -> Iterator[Part]:
    """The runs and what is to be computed between them."""
    end = 0
    for run in runs:
        if run.first > end:
            yield Part(end, run.first - end)
        yield run
        end = run.first + run.length
    if end < length:
        yield Part(end, length - end)


# -- ahead of a prefill ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Residency:
    """One piece's KV as it is now.

    Attributes:
        exact, instant: tokens that an exact and an instant question would reuse.
        fidelity: of the KV there is, before any work.
    """

    piece: Piece
    exact: int
    instant: int
    fidelity: FidelityLabel


def assess(store: SegmentStore, composition: Composition, near: NearKV | None) -> tuple[list[Residency], bytes]:
    """The residency of each piece, head first, and the hash of what would stand before an instant question's tail."""
    found: list[Residency] = []
    kv_hash = composition.base_hash
    for piece in composition.pieces:
        residency, kv_hash = assess_piece(store, composition, piece, kv_hash, near)
        found.append(residency)
    return found, kv_hash


def assess_piece(
    store: SegmentStore, composition: Composition, piece: Piece, kv_hash: bytes, near: NearKV | None
) -> tuple[Residency, bytes]:
    """The residency of a piece of the composition, or of one to follow it, and the hash behind it.

    `kv_hash` is that of what an instant question would find before it.
    """
    head_key = composition.pieces[0].key if composition.pieces else composition.base_hash
    exact = store.ready(piece.prefix_hash, piece.tokens)
    parts = parts_of(store, piece, kv_hash, near, head_key)
    residency = Residency(
        piece=piece,
        exact=exact,
        instant=_reused(store, piece, kv_hash, parts),
        fidelity=_state(piece, exact, parts),
    )
    return residency, parts.kv_hash


def _reused(store: SegmentStore, piece: Piece, kv_hash: bytes, parts: PieceParts) -> int:
    """Tokens reused, those included that a segment to be opened would hold already."""
    reused = 0
    for part in parts.parts:
        tokens = piece.tokens[part.first : part.first + part.length]
        reused += part.length if part.segment is not None else store.ready(kv_hash, tokens)
        kv_hash = part.kv_hash(kv_hash, piece.tokens)
    return reused


def _state(piece: Piece, exact: int, parts: PieceParts) -> FidelityLabel:
    if exact == len(piece.tokens):
        return FidelityLabel.EXACT
    return parts.label if parts.there else FidelityLabel.COLD
