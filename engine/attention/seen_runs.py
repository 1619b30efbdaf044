"""What the new tokens of a row see, as runs of the pool in order, and which piece each run is part of.

Host work in numpy. Knows nothing of layers or queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.attention.base import AttentionRow
from engine.kv.virtual_block_table import Placement, VirtualBlockTable

IntArray = NDArray[np.int32]


def seen_runs(row: AttentionRow, block_size: int) -> IntArray:
    """Runs [N, 4] of slot, length, start and Δ of all that the row's last token sees, its own segment's included."""
    own = VirtualBlockTable.build([Placement(row.segment, 0, row.segment.filled + row.num_tokens)], block_size)
    slot, length, start, _ = own.run_columns.T
    behind = np.stack((slot, length, start + row.table.tokens, np.zeros_like(slot)), 1)
    return np.concatenate((row.table.run_columns, behind))


def parted(runs: IntArray, places: Sequence[int]) -> IntArray:
    """The runs, which close up from position 0, cut at these positions; what lies behind them is ignored."""
    slots, lengths, starts, deltas = runs.T
    end = starts[-1] + lengths[-1]
    begins = np.union1d(starts, np.array(places, dtype=np.int32))
    begins = begins[begins < end]
    of = np.searchsorted(starts, begins, side="right") - 1
    columns = (slots[of] + begins - starts[of], np.diff(begins, append=end), begins, deltas[of])
    return np.stack(columns, 1).astype(np.int32)


def pieces_of(runs: IntArray, pieces: Sequence[int], end: int) -> IntArray:
    """The number of the piece, of those that begin at `pieces` and end at `end`, that each run is part of; −1: none."""
    starts = runs[:, 2]
    found = np.searchsorted(pieces, starts, side="right").astype(np.int32) - 1
    return np.where(starts < end, found, np.int32(-1))
