"""The virtual block table: partly filled blocks anywhere, closed-up positions, and runs that are true to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.hashing import token_array
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable

BLOCK_SIZE = 4


@st.composite
def placements(draw: st.DrawFn) -> list[Placement]:
    free = draw(st.permutations(range(40))) if draw(st.booleans()) else list(range(40))
    result: list[Placement] = []
    position = 0
    for length in draw(st.lists(st.integers(1, 11), max_size=8)):
        blocks = [free.pop() for _ in range(-(-length // BLOCK_SIZE))][::-1]
        segment = Segment(b"", token_array(range(length)), draw(st.integers(0, 50)), blocks, length)
        offset = draw(st.integers(0, length - 1))
        placed = draw(st.integers(1, length - offset))
        result.append(Placement(segment, position, placed, offset))
        position += placed
    return result


@given(placements())
def test_every_token_is_in_its_slot_at_its_position(placed: list[Placement]) -> None:
    table = VirtualBlockTable.build(placed, BLOCK_SIZE)
    expected = [
        (slot, placement.start + i, placement.delta)
        for placement in placed
        for i, slot in enumerate(placement.segment.slots(placement.offset, placement.length, BLOCK_SIZE))
    ]
    from_blocks = [
        (block * BLOCK_SIZE + first + i, start + i, delta)
        for block, first, valid, start, delta in zip(
            table.block_ids, table.first, table.valid, table.starts, table.deltas, strict=True
        )
        for i in range(valid)
    ]
    from_runs = [(run.slot + i, run.start + i, run.delta) for run in table.runs for i in range(run.length)]
    assert from_blocks == expected
    assert from_runs == expected
    assert table.tokens == len(expected)
    assert [position for _, position, _ in expected] == list(range(table.tokens))


def test_full_neighbors_of_one_delta_are_one_run() -> None:
    first = Segment(b"", token_array(range(8)), 0, [3, 4], 8)
    second = Segment(b"", token_array(range(5)), 8, [5, 6], 5)
    table = VirtualBlockTable.build([Placement(first, 0, 8), Placement(second, 8, 5)], BLOCK_SIZE)
    assert [(run.slot, run.length) for run in table.runs] == [(12, 13)]


def test_a_hole_between_placements_is_refused() -> None:
    segment = Segment(b"", token_array(range(4)), 0, [0], 4)
    with pytest.raises(AssertionError, match="close up"):
        VirtualBlockTable.build([Placement(segment, 0, 4), Placement(segment, 5, 4)], BLOCK_SIZE)
