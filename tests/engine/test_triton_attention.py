"""The triton backend against plain attention: interpreted on the CPU, or compiled where there is a GPU.

Interpreted, bfloat16 is left out: Triton's interpreter multiplies its bits. Float16 stands for what has 16 bits.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need triton")

from engine.attention.base import AttentionRow
from engine.attention.step_plan import Kind, advance, choose_block_m, make_plan
from engine.attention.tile_launch import TileLaunch, tile_launch
from engine.attention.torch_attention import TorchAttention
from engine.attention.triton_attention import TritonAttention
from engine.kv.virtual_block_table import Placement
from tests.engine.attention_bench import (
    Bench,
    Trial,
    assert_a_step_sees_its_earlier_rows,
    assert_new_kv_is_written,
    assert_read_is_right,
    assert_rows_are_right,
    draw_row,
)

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32, torch.float16]
SEEDS = 24 if CUDA else 2
# few programs leave rows whole, many part them
WHOLE, PARTED = partial(TritonAttention, programs=1), partial(TritonAttention, programs=64)
COPIED = partial(TritonAttention, programs=16, copy_engine=True)
MAKERS = pytest.mark.parametrize("make", [WHOLE, PARTED, COPIED], ids=["whole", "parted", "copied"])

SMALL_BLOCKS = partial(Trial, device=DEVICE, seeds=SEEDS)


@MAKERS
@pytest.mark.parametrize(("rope", "window"), [(True, None), (False, None), (True, 3), (True, 20), (False, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_over_moved_segments_with_partly_filled_blocks(make, rope: bool, window: int | None, dtype) -> None:
    assert_rows_are_right(SMALL_BLOCKS(make).layer(rope=rope, window=window), SMALL_BLOCKS(make, dtype))


@MAKERS
@pytest.mark.parametrize("window", [None, 20])
def test_capped_scores_and_sinks_over_moved_segments(make, window: int | None) -> None:
    trial = SMALL_BLOCKS(make)
    assert_rows_are_right(trial.layer(window=window, softcap=0.7, sinks=trial.sinks()), trial)


@pytest.mark.parametrize("window", [None, 9])
def test_rows_of_one_sequence_see_those_before_them_in_the_same_step(window: int | None) -> None:
    trial = SMALL_BLOCKS(PARTED)
    assert_a_step_sees_its_earlier_rows(trial.layer(window=window), trial)


@pytest.mark.parametrize("rope", [True, False])
def test_new_keys_are_written_rotated_where_they_stand(rope: bool) -> None:
    trial = SMALL_BLOCKS(WHOLE)
    assert_new_kv_is_written(trial.layer(rope=rope), trial)


@MAKERS
@pytest.mark.parametrize(("window", "sunk"), [(None, False), (20, True)])
def test_what_is_noted_as_read_is_the_attention_paid(make, window: int | None, sunk: bool) -> None:
    trial = SMALL_BLOCKS(make, seeds=SEEDS + 4)
    assert_read_is_right(trial.layer(window=window, sinks=trial.sinks() if sunk else None), trial)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(14, 2, 64), (3, 3, 96), (28, 4, 128), (8, 1, 256), (2, 2, 24)])
def test_head_sizes_and_groups_of_real_models(heads: int, kv_heads: int, dim: int) -> None:
    trial = SMALL_BLOCKS(PARTED, heads=heads, kv_heads=kv_heads, head_dim=dim, seeds=SEEDS if CUDA else 1)
    assert_rows_are_right(trial.layer(), trial)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("heads", [28, 4])
@pytest.mark.parametrize("block_size", [64, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [64, 96, 128, 256])
def test_long_rows_over_large_blocks(heads: int, block_size: int, dtype: torch.dtype, dim: int) -> None:
    trial = Trial(TritonAttention, dtype, DEVICE, heads, 4, dim, block_size, num_blocks=64)
    bench = Bench(trial.layer(), trial, seed=1)
    parts, placements, position = [], [], 0
    for length in (700, 63, 64, 400):
        parts.append(bench.written(length, position + 17).part(5, length - 5))
        placements.append(Placement(parts[-1].segment, position, length - 5, 5))
        position += length - 5
    for count in (1, 7, 300):
        own = bench.segment(count, position, 0)
        q, (k, v) = bench.queries(count), bench.kv(count)
        actual = bench.step([AttentionRow(bench.table(placements), own, count)], q, k, v)
        bench.assert_close(actual, bench.expected(parts, q, k, v))


@pytest.mark.parametrize(("kv_dtype", "least", "most"), [(torch.float8_e4m3fn, 1e-3, 0.1), (torch.int8, 1e-4, 0.02)])
def test_a_scaled_pool_loses_little(kv_dtype: torch.dtype, least: float, most: float) -> None:
    exact = outcome(SMALL_BLOCKS(TorchAttention))
    scaled = [outcome(SMALL_BLOCKS(make, kv_dtype=kv_dtype)) for make in (TorchAttention, PARTED, COPIED)]
    # the interpreter forgets to carry: what should round up to a power of two becomes half of it in float8
    rounding = 5e-3 if CUDA or kv_dtype == torch.int8 else most
    for each in scaled:
        assert least < distance(each, exact) < most
        assert distance(each, scaled[0]) < rounding


def outcome(trial: Trial) -> Tensor:
    bench = Bench(trial.layer(), trial, seed=7)
    drawn = draw_row(bench)
    return bench.step([drawn.row], drawn.q, drawn.k, drawn.v)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_plan_that_goes_on_is_the_one_that_would_be_made_anew() -> None:
    """For two answers at once, up to where one of them begins another block."""
    trial = SMALL_BLOCKS(WHOLE, num_blocks=200)
    bench = Bench(trial.layer(), trial, seed=2)
    rows = [decoding_row(bench, filled) for filled in (3, 9)]
    plan = partial(make_plan, rows, [Kind(3, None, 2)], trial.block_size, programs=64)
    going_on = plan()
    assert going_on.shape.works[0] > len(rows)
    for _ in range(4):
        assert advance(going_on, 1, trial.block_size)
        for row in rows:
            row.segment.filled += 1
        assert going_on.data.tolist() == plan().data.tolist()
    before = going_on.data.copy()
    assert not advance(going_on, 1, trial.block_size)
    assert going_on.data.tolist() == before.tolist()


def decoding_row(bench: Bench, filled: int) -> AttentionRow:
    """The next token of an answer of which `filled` tokens are there, behind a moved segment of some blocks."""
    before = bench.written(290, 40)
    return AttentionRow(bench.table([Placement(before.segment, 0, 290)]), bench.segment(filled + 8, 290, filled), 1)


@pytest.mark.parametrize(
    ("tokens", "group", "expected"), [(1, 7, 16), (4, 7, 64), (64, 7, 64), (1, 71, 128), (1000, 71, 128)]
)
def test_tiles_are_as_small_as_rows_allow(tokens: int, group: int, expected: int) -> None:
    assert choose_block_m(tokens, group) == expected


@pytest.mark.parametrize(
    ("dim", "itemsize", "kib", "expected"),
    [
        (128, 2, 227, TileLaunch(4, 3)),  # H100
        (128, 2, 99, TileLaunch(4, 2)),  # what most GPUs for games have
        (256, 2, 227, TileLaunch(4, 2)),
        (128, 4, 99, None),
        (64, 4, 64, TileLaunch(4, 1)),  # Turing, which has no bfloat16
        (256, 4, 227, TileLaunch(4, 1)),
    ],
)
def test_launches_fit_into_shared_memory(dim: int, itemsize: int, kib: int, expected: TileLaunch | None) -> None:
    assert tile_launch(64, dim, itemsize, kib << 10) == expected
