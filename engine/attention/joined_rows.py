"""Rows of one step that stand end to end in one sequence, as one row: their tokens are attended to together.

A prefill of small files brings many such rows, each behind all those before it. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.attention.base import AttentionRow
from engine.kv.virtual_block_table import Placement, VirtualBlockTable


def joined(rows: Sequence[AttentionRow]) -> list[AttentionRow]:
    """The rows, each with those that go on from it as one of all their tokens; the pieces of such a one are left out.

    Its segment is the first one's, so of the new tokens only that holds where the first of them are to be written.
    """
    found: list[AttentionRow] = []
    last: AttentionRow | None = None
    for row in rows:
        if last is not None and _goes_on(row, last):
            found[-1] = replace(found[-1], num_tokens=found[-1].num_tokens + row.num_tokens, pieces=())
        else:
            found.append(row)
        last = row
    return found


def _goes_on(row: AttentionRow, last: AttentionRow) -> bool:
    """Whether the row's table ends with the new tokens of the one before it, and is the same up to there."""
    if row.segment.filled or row.table.tokens != last.position + last.num_tokens:
        return False
    placed = Placement(last.segment, last.table.tokens, last.segment.filled + last.num_tokens)
    return _same_slots(row.table, last.table.then(placed))


def _same_slots(one: VirtualBlockTable, other: VirtualBlockTable) -> bool:
    """Whether both name the same slots, moved by the same Δ, in the same order."""
    mine = (one.block_ids, one.first, one.valid, one.deltas)
    return all(map(np.array_equal, mine, (other.block_ids, other.first, other.valid, other.deltas)))
