"""Repairs: which tokens of near KV are computed anew before it is read, and whether it may be read at all.

KV that has read a chunk which stands before it no more still knows of it. How much so each segment has noted when it
was computed: the share of attention that each token paid to each piece before it. The few tokens that paid most are
computed anew; docs/fidelity.md compares this with all else that was tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.chunk_kv import ChunkKV, Match
from engine.composition import Composition, Piece
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore

Window = tuple[int, int]
"""First token and number of tokens of a chunk's piece."""


@dataclass(frozen=True)
class Repair:
    """How near KV is repaired.

    Attributes:
        share: of the chunks' tokens, at most so many are computed anew because of what they have read.
        window: tokens that are judged and computed together.
        safe_read: what near KV may have read of what is gone, as the attention paid to it per token of the
            composition; beyond it there is repair.
        repairable_read: likewise; beyond it repair isn't enough, and `auto` computes whole chunks anew.
        seam: tokens computed behind a change within a chunk, before its old KV is taken up again.
        shortest: runs of fewer tokens are computed rather than reused.
    """

    share: float = 0.05
    window: int = 8
    safe_read: float = 0.024
    repairable_read: float = 0.04
    seam: int = 16
    shortest: int = 8


DEFAULT_REPAIR = Repair()


@dataclass(frozen=True)
class Repairs:
    """What to compute anew, by chunk hash; `safe`: what is then read has read little of what is gone or was new."""

    windows: Mapping[str, tuple[Window, ...]]
    safe: bool


@dataclass(frozen=True, eq=False)
class _Run:
    """A run of near KV from the piece's token `first` on; `paid` float16 [n] is the attention that what is gone got."""

    first: int
    paid: NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class _Stale:
    """A piece whose near KV has read what is gone.

    Attributes:
        read: the attention that all its tokens together paid to it, as far as that was noted.
        measured: whether all of it was.
    """

    piece: Piece
    runs: Sequence[_Run]
    read: float
    measured: bool

    @property
    def repaired(self) -> int:
        """Tokens between its runs: computed by an earlier repair, or new text."""
        return len(self.piece.tokens) - sum(len(run.paid) for run in self.runs)

    def windows(self, length: int) -> Iterator[tuple[float, str, int, int]]:
        """Attention paid per token, chunk, first token and number of tokens of each window of at most `length`."""
        for run in self.runs:
            for start in range(0, len(run.paid), length):
                part = run.paid[start : start + length]
                yield float(part.mean(dtype=np.float32)), self.piece.chunk or "", run.first + start, len(part)


FOREIGN = 0.5
"""KV that has not read more than this share of the tokens before it counts as brought in from elsewhere."""


def plan_repairs(
    store: SegmentStore,
    composition: Composition,
    kv: Mapping[str, ChunkKV],
    versions: Mapping[str, Set[str]],
    repair: Repair,
    foreign_tokens: int | None,
) -> Repairs:
    """What of the composition's near KV to compute anew.

    Args:
        kv: where the chunks' KV was last, by chunk hash.
        versions: earlier hashes of the composition's chunks; having read one of them is not having read what is gone.
        foreign_tokens: how many tokens may be computed at the beginnings of chunks brought in from elsewhere; None
            computes all of these, and all chunks that have read too much of what is gone, so that the KV is safe.
    """
    plan = _Plan(store, composition, versions, repair)
    for piece in composition.pieces:
        chunk_kv = kv.get(piece.chunk or "")
        if chunk_kv is not None and not _is_exact(store, piece):
            plan.look_at(piece, chunk_kv)
        plan.pass_by(piece)
    return plan.repairs(foreign_tokens)


def _is_exact(store: SegmentStore, piece: Piece) -> bool:
    segment = store.get(piece.key)
    return segment is not None and segment.complete


class _Plan:
    """One walk over a composition's pieces."""

    def __init__(
        self, store: SegmentStore, composition: Composition, versions: Mapping[str, Set[str]], repair: Repair
    ) -> None:
        self._store = store
        self._tokens = composition.tokens
        self._chunk_tokens = sum(len(piece.tokens) for piece in composition.pieces if piece.chunk is not None)
        self._versions = versions
        self._repair = repair
        self._before: list[tuple[int, Set[str]]] = []
        self._known: set[str] = set()
        self._stale: list[_Stale] = []
        self._foreign: list[Piece] = []

    def pass_by(self, piece: Piece) -> None:
        """The piece stands before all that are looked at from now on."""
        names = {piece.identity} | self._versions.get(piece.identity, frozenset())
        self._before.append((len(piece.tokens), names))
        self._known |= names

    def look_at(self, piece: Piece, chunk_kv: ChunkKV) -> None:
        """Note what the piece's last KV has read that is gone, and whether it was near at all."""
        found = list(self._segments(piece, chunk_kv))
        if any(self._is_foreign(segment) for _, segment in found):
            self._foreign.append(piece)
            return
        stale = {segment: self._paid(segment) for _, segment in found if not segment.seen <= self._known}
        if not stale:
            return
        runs = [
            _Run(match.first, stale[segment][match.span.offset :][: match.span.length])
            for match, segment in found
            if segment in stale
        ]
        # all of each segment, so that what was repaired before doesn't make the rest look better than it is
        read = sum(float(paid.sum(dtype=np.float32)) for paid in stale.values())
        measured = all(segment.seen - self._known <= segment.read.keys() for segment in stale)
        self._stale.append(_Stale(piece, runs, read, measured))

    def _segments(self, piece: Piece, chunk_kv: ChunkKV) -> Iterator[tuple[Match, Segment]]:
        for match in chunk_kv.matches(piece.tokens):
            segment = self._store.get(match.span.key)
            if segment is not None and segment.filled >= match.span.offset + match.span.length:
                yield match, segment

    def _is_foreign(self, segment: Segment) -> bool:
        unread = sum(tokens for tokens, names in self._before if not names & segment.seen)
        return unread > FOREIGN * sum(tokens for tokens, _ in self._before)

    def _paid(self, segment: Segment) -> NDArray[np.float16]:
        """The attention that each of its tokens paid to what is gone, float16 [n]."""
        paid = np.zeros(len(segment.tokens), dtype=np.float16)
        for gone in (segment.seen - self._known) & segment.read.keys():
            paid += segment.read[gone]
        return paid

    def repairs(self, foreign_tokens: int | None) -> Repairs:
        if foreign_tokens is None:
            self._give_up_misread()
            foreign_tokens = self._tokens
        windows: dict[str, list[Window]] = {}
        if self._read > self._repair.safe_read:
            left = int(self._repair.share * self._chunk_tokens) - sum(stale.repaired for stale in self._stale)
            found = (window for stale in self._stale for window in stale.windows(self._repair.window))
            for _, chunk, first, length in sorted(found, reverse=True):
                if length <= left:
                    windows.setdefault(chunk, []).append((first, length))
                    left -= length
        whole = True
        for piece in self._foreign:
            length = min(len(piece.tokens), foreign_tokens)
            whole = whole and length == len(piece.tokens)
            foreign_tokens -= length
            if length:
                windows[piece.chunk or ""] = [(0, length)]
        measured = all(stale.measured for stale in self._stale)
        safe = whole and measured and self._read <= self._repair.repairable_read
        return Repairs({chunk: tuple(sorted(found)) for chunk, found in windows.items()}, safe)

    @property
    def _read(self) -> float:
        """What the stale KV has read of what is gone, as attention per token of the composition."""
        return sum(stale.read for stale in self._stale) / max(1, self._tokens)

    def _give_up_misread(self) -> None:
        """Those that by themselves have read too much of what is gone, or nobody knows how much, are computed anew."""
        misread = [stale for stale in self._stale if self._misread(stale)]
        self._stale = [stale for stale in self._stale if stale not in misread]
        self._foreign += [stale.piece for stale in misread]

    def _misread(self, stale: _Stale) -> bool:
        return not stale.measured or stale.read > self._repair.repairable_read * len(stale.piece.tokens)
