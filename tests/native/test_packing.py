"""Packed matrices: every bit lies where the layout says, and comes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.native.packing import KINDS, Kind, Quantized, fits, pack, packed_shape, unpack


@st.composite
def matrices(draw: st.DrawFn) -> Quantized:
    """Of any kind, up to 3 × 3 blocks, with random numbers."""
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    rows, columns = 16 * draw(st.integers(1, 3)), kind.columns * draw(st.integers(1, 3))
    return random_matrix(kind, rows, columns, draw(st.integers(0, 2**32 - 1)))


def random_matrix(kind: Kind, rows: int, columns: int, seed: int) -> Quantized:
    """Its scales are about 1, whether they have steps or not."""
    random = np.random.default_rng(seed)
    q = random.integers(0, 2**kind.bits, (rows, columns), dtype=np.uint8)
    scales, mins = random.normal(size=(2, rows, columns // kind.group)).astype(np.float16)
    if not kind.stepped:
        return Quantized(kind, q, scales, mins if kind.has_min else None)
    scales, mins = random.integers(-128, 128, (2, rows, columns // kind.group), dtype=np.int8)
    steps, min_steps = (random.normal(size=(2, rows, columns // 256)) / 64).astype(np.float16)
    has_min = kind.has_min
    return Quantized(kind, q, scales, mins if has_min else None, steps, min_steps if has_min else None)


def block_as_specified(matrix: Quantized, row: int, column: int) -> bytes:
    """The block at these first rows and columns, written down value by value, as the kernel reads it."""
    kind, rows, block = matrix.kind, slice(row, row + 16), b""
    if matrix.scale_steps is None:
        return part_as_specified(matrix, row, column)
    block += matrix.scale_steps[rows, column // 256].tobytes()
    if matrix.min_steps is not None:
        block += matrix.min_steps[rows, column // 256].tobytes()
    return block + b"".join(part_as_specified(matrix, row, at) for at in range(column, column + kind.columns, 32))


def part_as_specified(matrix: Quantized, row: int, column: int) -> bytes:
    kind, q = matrix.kind, matrix.q[row : row + 16, column : column + 32].tolist()
    groups = range(column // kind.group, (column + 32) // kind.group)
    lanes = [(r, c) for r in range(16) for c in range(4)]
    part = b"".join(matrix.scales[row : row + 16, group].tobytes() for group in groups)
    if matrix.mins is not None:
        part += matrix.mins[row : row + 16, column // 32].tobytes()
    if kind.bits == 8:
        return part + bytes(q[r][4 * j + c] for j in range(8) for r, c in lanes)
    part += bytes(q[r][4 * j + c] & 15 | (q[r][16 + 4 * j + c] & 15) << 4 for j in range(4) for r, c in lanes)
    for plane in range(kind.bits - 4):
        for j in range(8):
            word = sum((q[r][4 * j + c] >> 4 + plane & 1) << 4 * r + c for r, c in lanes)
            part += word.to_bytes(8, "little")
    return part


def same(one: NDArray[np.generic] | None, other: NDArray[np.generic] | None) -> bool:
    return (
        one is other if one is None or other is None else bool(one.dtype == other.dtype and np.array_equal(one, other))
    )


@given(matrices())
def test_every_bit_lies_where_the_kernel_looks(matrix: Quantized) -> None:
    packed = pack(matrix)
    assert packed.shape == packed_shape(matrix.kind, *matrix.q.shape)
    for i, j in np.ndindex(*packed.shape[:2]):
        assert packed[i, j].tobytes() == block_as_specified(matrix, 16 * i, matrix.kind.columns * j)


@given(matrices())
def test_what_is_packed_comes_back(matrix: Quantized) -> None:
    back = unpack(matrix.kind, pack(matrix))
    assert back.kind is matrix.kind
    assert same(back.q, matrix.q)
    assert same(back.scales, matrix.scales)
    assert same(back.mins, matrix.mins)
    assert same(back.scale_steps, matrix.scale_steps)
    assert same(back.min_steps, matrix.min_steps)


@given(matrices())
def test_some_rows_are_packed_as_they_are_in_the_whole(matrix: Quantized) -> None:
    numbers = (matrix.q, matrix.scales, matrix.mins, matrix.scale_steps, matrix.min_steps)
    last = Quantized(matrix.kind, *(part if part is None else part[-16:] for part in numbers))  # type: ignore[arg-type]
    assert same(pack(last), pack(matrix)[-1:])


@given(matrices())
def test_weights_are_scaled_distances_from_the_offset(matrix: Quantized) -> None:
    weights, group = matrix.weights(), matrix.kind.group
    assert weights.dtype == np.float32
    for r, c in ((0, 0), (5, 17), (-1, -1)):
        column = c % matrix.q.shape[1]
        step = 1.0 if matrix.scale_steps is None else float(matrix.scale_steps[r, column // 256])
        min_step = 1.0 if matrix.min_steps is None else float(matrix.min_steps[r, column // 256])
        least = 0.0 if matrix.mins is None else min_step * float(matrix.mins[r, column // 32])
        expected = step * float(matrix.scales[r, column // group]) * (int(matrix.q[r, c]) - matrix.kind.offset) + least
        assert weights[r, c] == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert matrix.reach()[r, c] >= abs(expected)


def test_blocks_have_the_sizes_that_the_kernel_was_written_for() -> None:
    sizes = {"q4": 320, "q5": 352, "q8": 544, "q4_k": 64 + 8 * 288, "q5_k": 64 + 8 * 352, "q6_k": 32 + 8 * 416}
    assert {name: kind.block_bytes for name, kind in KINDS.items()} == sizes


@pytest.mark.parametrize(
    ("rows", "columns", "result"),
    [(16, 32, True), (32, 96, True), (8, 32, False), (24, 32, False), (16, 48, False), (0, 32, False), (16, 0, False)],
)
def test_only_whole_blocks_fit(rows: int, columns: int, result: bool) -> None:
    assert fits(KINDS["q4"], rows, columns) is result
    assert fits(KINDS["q4_k"], rows, 8 * columns) is result
    assert not fits(KINDS["q4_k"], 16, 128)
