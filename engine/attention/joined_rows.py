"""Rows of one step that stand end to end in one sequence: their tokens are attended to together.

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
    groups = in_groups(rows)
    return [
        group[0] if len(group) == 1 else replace(group[0], num_tokens=sum(row.num_tokens for row in group), pieces=())
        for group in groups
    ]


def in_groups(rows: Sequence[AttentionRow]) -> list[list[AttentionRow]]:
    """The rows, each together with those that go on from it.

    All pieces of a group that lie before a row with pieces are that row's own, too.
    """
    groups: list[list[AttentionRow]] = []
    for row in rows:
        if groups and _goes_on(row, groups[-1][-1]) and _knows_pieces(row, groups[-1]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


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


def _knows_pieces(row: AttentionRow, group: Sequence[AttentionRow]) -> bool:
    """Whether it has the pieces that those before it have, if it has any."""
    noting = next((one for one in reversed(group) if one.pieces), None)
    if noting is None or not row.pieces:
        return True
    end = noting.table.tokens
    return [piece for piece in row.pieces if piece < end] == [piece for piece in noting.pieces if piece < end]
