"""A row's keys as spans of consecutive slots, and the splits in which they may be attended to apart.

Host work in numpy; of a table it is done once. Knows nothing of queries, tiles or plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.attention.base import AttentionRow
from engine.kv.virtual_block_table import VirtualBlockTable

IntArray = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class RowKeys:
    """What one row's queries may see, in parts that can be attended to apart.

    Attributes:
        spans: [S, 4] of slot, start, end and Δ; none reaches from one split into the next.
        pieces: [S], the piece that each span is in, −1 for none.
        splits: [P, 4] of first span, end span, low and high.
    """

    spans: IntArray
    pieces: IntArray
    splits: IntArray


def keys_of(row: AttentionRow, length: int, block_size: int) -> RowKeys:
    """The keys of the table and those of the row's segment, each in splits of `length`; few enough in one split.

    What two splits save in time, the merge of their results costs again.
    """
    if row.position + row.num_tokens < 2 * length:
        return _whole(row, block_size)
    own = _keys_in(_own_runs(row, block_size), length)
    if not row.table.tokens:
        return own
    table = _keys_of_table(row.table, length, row.pieces)
    count = len(table.spans)
    return RowKeys(
        np.concatenate((table.spans, own.spans)),
        np.concatenate((table.pieces, own.pieces)),
        np.concatenate((table.splits, own.splits + np.array((count, count, 0, 0), dtype=np.int32))),
    )


def _whole(row: AttentionRow, block_size: int) -> RowKeys:
    """All keys in one split."""
    own = _keys_in(_own_runs(row, block_size))
    if not row.table.tokens:
        return own
    table = _keys_of_table(row.table, None, row.pieces)
    spans = np.concatenate((table.spans, own.spans))
    split = np.array([[0, len(spans), 0, spans[-1, 2]]], dtype=np.int32)
    return RowKeys(spans, np.concatenate((table.pieces, own.pieces)), split)


@lru_cache(maxsize=64)
def _keys_of_table(table: VirtualBlockTable, length: int | None, pieces: tuple[int, ...]) -> RowKeys:
    """The table's keys; while an answer is decoded they stay the same from step to step."""
    runs = np.array([(run.slot, run.start, run.start + run.length, run.delta) for run in table.runs], dtype=np.int32)
    return _keys_in(runs, length, pieces)


def _own_runs(row: AttentionRow, block_size: int) -> IntArray:
    """Runs [R, 4] of slot, start, end and Δ of the row's own segment, its new tokens included."""
    segment, start = row.segment, row.table.tokens
    length = segment.filled + row.num_tokens
    runs: list[list[int]] = []
    for index, block in enumerate(segment.blocks[: -(-length // block_size)]):
        begin = start + index * block_size
        end = min(begin + block_size, start + length)
        if runs and runs[-1][0] + begin - runs[-1][1] == block * block_size:
            runs[-1][2] = end
        else:
            runs.append([block * block_size, begin, end, 0])
    return np.array(runs, dtype=np.int32)


def _keys_in(runs: IntArray, length: int | None = None, pieces: tuple[int, ...] = ()) -> RowKeys:
    """Runs [R, 4] of slot, start, end and Δ that stand end to end, in splits of `length`; pieces begin at `pieces`.

    `length`: None makes one split.
    """
    begin, end = int(runs[0, 1]), int(runs[-1, 2])
    borders = np.arange(begin, end, length or end - begin, dtype=np.int32)
    spans = runs
    if len(borders) > 1 or len(pieces) > 1:
        spans = _parted(runs, np.unique(np.concatenate((borders, np.array(pieces, dtype=np.int32)))))
    piece = np.searchsorted(pieces, spans[:, 1], side="right").astype(np.int32) - 1
    first_spans = np.searchsorted(spans[:, 1], borders)
    splits = (first_spans, np.append(first_spans[1:], len(spans)), borders, np.append(borders[1:], end))
    return RowKeys(spans, piece, np.stack(splits, 1).astype(np.int32))


def _parted(runs: IntArray, places: IntArray) -> IntArray:
    """The runs [R, 4] of slot, start, end and Δ, cut at these global positions, ascending."""
    starts, ends = runs[:, 1], runs[:, 2]
    owner = np.searchsorted(starts, places, side="right") - 1
    inside = (places > starts[owner]) & (places < ends[owner])
    all_starts = np.sort(np.concatenate((starts, places[inside])))
    of = np.searchsorted(starts, all_starts, side="right") - 1
    all_ends = np.append(all_starts[1:], ends[-1])
    return np.stack((runs[of, 0] + all_starts - starts[of], all_starts, all_ends, runs[of, 3]), 1).astype(np.int32)
