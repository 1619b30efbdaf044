"""The composition as a kernel reads it: which blocks, how much of each is valid, where it stands, how far it moved.

Built from placements of segments on the host; switching, reordering or composing chunks only builds another table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.kv.segment import Segment

IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Placement:
    """A segment's first `length` tokens, standing at global position `start`."""

    segment: Segment
    start: int
    length: int

    @property
    def delta(self) -> int:
        """Δ: how far behind its computed position the segment stands now."""
        return self.start - self.segment.start


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
        valid: valid tokens in it, 1 … block_size; partly filled blocks may stand anywhere.
        starts: global position of its first token.
        deltas: Δ of the segment it belongs to.
        tokens: sum of `valid`; also the global position of the first token behind the table.
    """

    block_ids: IntArray
    valid: IntArray
    starts: IntArray
    deltas: IntArray
    tokens: int
    block_size: int

    @staticmethod
    def build(placements: Sequence[Placement], block_size: int) -> VirtualBlockTable:
        """Lay the placements end to end; their starts must close up."""
        rows: list[tuple[int, int, int, int]] = []
        position = 0
        for placement in placements:
            assert placement.start == position, "positions must close up"
            for offset in range(0, placement.length, block_size):
                block = placement.segment.blocks[offset // block_size]
                rows.append((block, min(block_size, placement.length - offset), position + offset, placement.delta))
            position += placement.length
        block_ids, valid, starts, deltas = np.array(rows, dtype=np.int32).reshape(-1, 4).T
        return VirtualBlockTable(block_ids, valid, starts, deltas, position, block_size)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The table as views of the pool: neighbouring blocks with one Δ and no gap between them merged."""
        runs: list[Run] = []
        for block, valid, start, delta in zip(
            self.block_ids.tolist(), self.valid.tolist(), self.starts.tolist(), self.deltas.tolist(), strict=True
        ):
            slot = block * self.block_size
            if runs and runs[-1].slot + runs[-1].length == slot and runs[-1].delta == delta:
                last = runs.pop()
                runs.append(Run(last.slot, last.length + valid, last.start, delta))
            else:
                runs.append(Run(slot, valid, start, delta))
        return tuple(runs)
