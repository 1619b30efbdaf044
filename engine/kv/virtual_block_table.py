"""The composition as a kernel reads it: which blocks, how much of each is valid, where it stands, how far it moved.

Built from placements of segments on the host; switching, reordering or composing chunks only builds another table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.kv.segment import Segment

IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Placement:
    """`length` tokens of a segment, from its token `offset` on, standing at global position `start`."""

    segment: Segment
    start: int
    length: int
    offset: int = 0

    @property
    def delta(self) -> int:
        """Δ: how far behind their computed positions the tokens stand now."""
        return self.start - self.segment.start - self.offset


@dataclass(frozen=True)
class Run:
    """Tokens that lie in consecutive pool slots and share one Δ: one view of the pool.

    `slot` is the first pool slot, `start` the global position of the token in it.
    """

    slot: int
    length: int
    start: int
    delta: int


@dataclass(frozen=True, eq=False)
class VirtualBlockTable:
    """Everything that stands before a token, in prompt order. One entry per block in each int32 array [N].

    Attributes:
        block_ids: block of the pool.
        first: its first valid slot, 0 … block_size - 1; a placement may begin anywhere in its segment.
        valid: valid tokens from there on, 1 … block_size - first; partly filled blocks may stand anywhere.
        starts: global position of the first of them.
        deltas: Δ of the placement it belongs to.
        tokens: sum of `valid`; also the global position of the first token behind the table.
    """

    block_ids: IntArray
    first: IntArray
    valid: IntArray
    starts: IntArray
    deltas: IntArray
    tokens: int
    block_size: int

    @staticmethod
    def build(placements: Iterable[Placement], block_size: int) -> VirtualBlockTable:
        """Lay the placements end to end; their starts must close up."""
        none = np.empty(0, dtype=np.int32)
        return VirtualBlockTable(none, none, none, none, none, 0, block_size).then(*placements)

    def then(self, *placements: Placement) -> VirtualBlockTable:
        """This table with more placements, which must stand right behind it, end to end."""
        tokens, added = self.tokens, list[tuple[IntArray, ...]]()
        for placement in placements:
            assert placement.start == tokens, "positions must close up"
            if placement.length:
                added.append(_entries(placement, self.block_size))
                tokens += placement.length
        if not added:
            return self
        mine = (self.block_ids, self.first, self.valid, self.starts, self.deltas)
        block_ids, first, valid, starts, deltas = map(np.concatenate, zip(mine, *added, strict=True))
        return VirtualBlockTable(block_ids, first, valid, starts, deltas, tokens, self.block_size)

    @cached_property
    def run_columns(self) -> IntArray:
        """The table as views of the pool, [runs, 4]: slot, length, start and Δ of each, as `Run` has them.

        Neighbouring blocks with one Δ and no gap between them are one.
        """
        if not len(self.block_ids):
            return np.empty((0, 4), dtype=np.int32)
        slots = self.block_ids * self.block_size + self.first
        apart = (slots[1:] != slots[:-1] + self.valid[:-1]) | (self.deltas[1:] != self.deltas[:-1])
        begins = np.concatenate(([0], np.flatnonzero(apart) + 1))
        lengths = np.add.reduceat(self.valid, begins, dtype=np.int32)
        return np.stack((slots[begins], lengths, self.starts[begins], self.deltas[begins]), 1)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The same, one by one."""
        return tuple(Run(*run) for run in self.run_columns.tolist())


def _entries(placement: Placement, size: int) -> tuple[IntArray, ...]:
    """A placement's part of each array of a table, in their order."""
    end = placement.offset + placement.length
    index = np.arange(placement.offset // size, -(-end // size), dtype=np.int32)
    first = np.maximum(placement.offset - index * size, 0)
    valid = np.minimum(end - index * size, size) - first
    blocks = np.array(placement.segment.blocks[index[0] : index[-1] + 1], dtype=np.int32)
    starts = index * size + first + (placement.start - placement.offset)
    return blocks, first, valid, starts, np.full_like(index, placement.delta)
