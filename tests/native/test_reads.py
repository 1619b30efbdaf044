"""What a step by the native library notes as read is what the torch backend notes, wherever pieces begin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attention.base import AttentionRow
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.native.abi import MOST_STRETCHES, MOST_TOKENS
from engine.native.library import levels
from engine.runtime.native_steps import arrays_of
from engine.runtime.scheduler import StepRow
from tests.native.libraries import EACH
from tests.native.test_steps import BLOCK, Drawing, Sides, sides
from tests.tiny_models import NATIVE


@pytest.mark.parametrize("level", EACH)
@pytest.mark.parametrize("family", NATIVE)
def test_every_family(level: str, family: str) -> None:
    both = sides(level, family, torch.float32)
    for seed in range(4):
        drawing = Drawing(both, seed)
        both.compare([drawing.row(12, noted=index != 1) for index in range(drawing.random.randint(1, 4))])
    both.native.release()


@pytest.mark.parametrize("level", EACH)
def test_bfloat16(level: str) -> None:
    both = sides(level, "qwen3", torch.bfloat16)
    for seed in range(4):
        both.compare([Drawing(both, seed).row(MOST_TOKENS, noted=True)])
    both.native.release()


@pytest.fixture(scope="module", params=["llama", "qwen2-sliding", "mistral-sliding"])
def both(request: pytest.FixtureRequest) -> Sides:
    return sides(levels()[0], request.param, torch.float32)


def placed(drawing: Drawing, lengths: list[int]) -> VirtualBlockTable:
    """Segments that were all computed at position 3, end to end."""
    table = VirtualBlockTable.build([], BLOCK)
    for length in lengths:
        table = table.then(Placement(drawing.written(length, 3), table.tokens, length))
    return table


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    pieces=st.lists(st.integers(0, 300), max_size=70),
    count=st.integers(1, 20),
    filled=st.integers(0, 9),
)
def test_wherever_pieces_begin(both: Sides, lengths: list[int], pieces: list[int], count: int, filled: int) -> None:
    drawing = Drawing(both, len(pieces))
    table = placed(drawing, lengths)
    own = drawing.segment(filled + count, table.tokens)
    if filled:
        drawing.compute(table, own, filled)
        own.filled = filled
    begins = (0, *sorted(piece for piece in pieces if piece <= table.tokens))
    row = AttentionRow(table, own, count, pieces=begins)
    both.compare([StepRow(None, row, own.tokens[filled:], 1)])  # type: ignore[arg-type]


@pytest.mark.parametrize("level", EACH)
def test_rows_of_one_step_are_pieces_of_later_ones(level: str) -> None:
    both = sides(level, "llama", torch.float32)
    drawing, rows, pieces = Drawing(both, 1), list[StepRow](), [0]
    table = placed(drawing, [9])
    for count in (3, 9, 2):
        segment = drawing.segment(count, table.tokens)
        row = AttentionRow(table, segment, count, pieces=tuple(pieces))
        rows.append(StepRow(None, row, segment.tokens, 0))  # type: ignore[arg-type]
        pieces.append(table.tokens)
        table = table.then(Placement(segment, table.tokens, count))
    results = both.compare(rows)
    assert results[-1].read is not None
    assert (results[-1].read.sum(0) < 1).all(), "what a row's own segment is paid is no piece's"
    both.native.release()


def test_more_pieces_than_stretches_and_any_number_of_threads() -> None:
    both = sides(levels()[0], "qwen3", torch.float32, threads=5)
    drawing = Drawing(both, 2)
    table = placed(drawing, [150, 7, 160])
    own = drawing.segment(4, table.tokens)
    row = AttentionRow(table, own, 4, pieces=tuple(range(0, table.tokens, 2)))
    assert len(row.pieces) > 2 * MOST_STRETCHES
    rows = [StepRow(None, row, own.tokens, 4)]  # type: ignore[arg-type]
    both.compare(rows)
    results = []
    for threads in range(1, 6):
        both.stepper.threads = threads
        results.append(both.stepper.step(arrays_of(rows, range(4), BLOCK)).read)
    assert results[0] is not None
    assert all(result is not None and np.array_equal(result, results[0]) for result in results)
    both.native.release()


def test_behind_nothing_nothing_is_read() -> None:
    both = sides(levels()[0], "llama", torch.float32)
    drawing = Drawing(both, 3)
    own = drawing.segment(5, 0)
    row = AttentionRow(VirtualBlockTable.build([], BLOCK), own, 5, pieces=(0,))
    results = both.compare([StepRow(None, row, own.tokens, 0)])  # type: ignore[arg-type]
    assert results[0].read is None
    both.native.release()
