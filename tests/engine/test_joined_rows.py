"""Rows that stand end to end in one sequence become one, and no others do."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.attention.base import AttentionRow
from engine.attention.joined_rows import in_groups, joined
from engine.hashing import token_array
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable

BLOCK_SIZE = 4


class Sequence:
    """Rows of one sequence, each behind all that was laid before it; blocks are its own."""

    def __init__(self, first_block: int) -> None:
        self.table = VirtualBlockTable.build((), BLOCK_SIZE)
        self._block = first_block

    def segment(self, length: int, filled: int, moved: int = 0) -> Segment:
        blocks = list(range(self._block, self._block + -(-length // BLOCK_SIZE)))
        self._block += len(blocks) + 1
        return Segment(b"", token_array(range(length)), self.table.tokens + moved, blocks, filled)

    def lay(self, length: int, moved: int = 0) -> None:
        """Tokens that are there already."""
        self._place(self.segment(length, length, moved))

    def row(self, new: int, filled: int = 0) -> AttentionRow:
        """New tokens of a segment, which later rows find in their tables."""
        segment = self.segment(filled + new, filled)
        row = AttentionRow(self.table, segment, new, pieces=(0,) if self.table.tokens else ())
        self._place(segment)
        return row

    def _place(self, segment: Segment) -> None:
        self.table = self.table.then(Placement(segment, self.table.tokens, len(segment.tokens)))


def test_rows_that_follow_each_other_are_one_behind_the_table_of_the_first() -> None:
    sequence = Sequence(0)
    sequence.lay(7, moved=5)
    first, *rest = sequence.row(3, filled=6), sequence.row(9), sequence.row(1)
    (row,) = joined([first, *rest])
    assert (row.table, row.segment, row.num_tokens) == (first.table, first.segment, 13)
    assert row.position == 13
    assert row.pieces == ()


def test_what_was_there_between_two_rows_keeps_them_apart() -> None:
    sequence = Sequence(0)
    first = sequence.row(3)
    sequence.lay(5)
    rows = [first, sequence.row(4)]
    assert joined(rows) == rows


def test_a_segment_that_has_tokens_already_keeps_its_row_apart() -> None:
    sequence = Sequence(0)
    rows = [sequence.row(3), sequence.row(4, filled=2)]
    assert joined(rows) == rows


def test_another_sequence_of_the_same_length_is_not_gone_on_with() -> None:
    one, other = Sequence(0), Sequence(100)
    first = one.row(4)
    other.row(4)
    rows = [first, other.row(2)]
    assert joined(rows) == rows


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), max_size=4))
def test_each_sequence_of_a_step_is_one_row(lengths: list[list[int]]) -> None:
    steps = []
    for index, of_one in enumerate(lengths):
        sequence = Sequence(1000 * index)
        sequence.lay(1 + index)
        steps.append([sequence.row(length) for length in of_one])
    found = joined([row for rows in steps for row in rows])
    assert [row.num_tokens for row in found] == [sum(of_one) for of_one in lengths]
    assert [row.segment for row in found] == [rows[0].segment for rows in steps]


def test_rows_that_don_t_agree_on_their_pieces_stay_apart() -> None:
    sequence = Sequence(0)
    sequence.lay(7)
    rows = [sequence.row(3), sequence.row(4), sequence.row(2)]
    known = [replace(rows[0], pieces=(0, 2)), replace(rows[1], pieces=()), replace(rows[2], pieces=(0, 2, 7, 11))]
    assert in_groups(known) == [known]
    unknown = [*known[:2], replace(rows[2], pieces=(0, 3, 7))]
    assert in_groups(unknown) == [unknown[:2], unknown[2:]]
