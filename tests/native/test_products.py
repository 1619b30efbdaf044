"""Products of packed and dense matrices, by every library that this processor can run, against numpy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.native import abi
from engine.native.library import load_level
from engine.native.packing import KINDS, Kind, pack
from tests.native.libraries import EACH
from tests.native.test_packing import random_matrix

FloatArray = NDArray[np.float32]


@pytest.fixture(params=EACH, scope="module")
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """It must have been built: `pip install` compiles it wherever it can."""
    found = load_level(request.param)
    assert found is not None, f"engine/native has no library for {request.param}"
    return found


def product(library: ctypes.CDLL, matrix: abi.Matrix, x: FloatArray) -> FloatArray:
    """matrix · x for each row of x [T, columns]: [T, rows]."""
    result = np.full((len(x), matrix.rows), np.nan, dtype=np.float32)
    assert library.ctx_multiply(ctypes.byref(matrix), x.ctypes.data, len(x), result.ctypes.data) == 0
    return result


def rounded(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """As packed matrices see it: 32 numbers share a scale, by which the largest of them becomes ±127.

    And how far each may be from that: a number in the middle between two bytes may become either.
    """
    groups = x.reshape(len(x), -1, 32)
    scales = (np.abs(groups).max(-1, keepdims=True) / np.float32(127)).astype(np.float32)
    steps = groups / np.where(scales > 0, scales, 1)
    whole: FloatArray = (np.round(steps) * scales).reshape(x.shape)
    in_the_middle = np.abs(np.abs(steps - np.round(steps)) - 0.5) < 1e-4
    either: FloatArray = (in_the_middle * scales).reshape(x.shape)
    return whole, either


@st.composite
def vectors(draw: st.DrawFn, columns: int) -> FloatArray:
    """1 to 15 of them, for eight are multiplied at once, or four. Some begin with large numbers, or with zeros only."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.normal(size=(draw(st.integers(1, 15)), columns)).astype(np.float32)
    x[:, :32] *= draw(st.sampled_from([0, 1, 1e4]))
    return x


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(data=st.data())
def test_packed_matrices(library: ctypes.CDLL, kind: Kind, data: st.DataObject) -> None:
    rows, columns = 16 * data.draw(st.integers(1, 4)), kind.columns * data.draw(st.integers(1, 5))
    matrix = random_matrix(kind, rows, columns, data.draw(st.integers(0, 2**32 - 1)))
    x, packed = data.draw(vectors(columns)), pack(matrix)
    bias = np.linspace(-1, 1, rows, dtype=np.float32)
    its = abi.Matrix(abi.PACKED[kind.name], rows, columns, packed.ctypes.data, bias.ctypes.data)
    weights = matrix.weights().astype(np.float64)
    seen, either = (part.astype(np.float64) for part in rounded(x))
    size = np.abs(x).astype(np.float64) @ np.abs(weights).T
    allowed = either @ np.abs(weights).T + 1e-5 * size + 1e-5
    assert (np.abs(product(library, its, x) - (seen @ weights.T + bias)) <= allowed).all()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_packed_matrices_times_whole_numbers_are_exact(library: ctypes.CDLL, kind: Kind) -> None:
    """Extremes of both sides: sums of products of 8 bits must not overflow on the way."""
    columns = 2 * kind.columns
    matrix = random_matrix(kind, 32, columns, seed=1)
    for q in (0, 2**kind.bits - 1):
        matrix.q[:] = q
        matrix.scales[:] = -128 if kind.stepped else 0.5
        packed = pack(matrix)
        x = np.concatenate(
            [np.full((1, columns), 127), np.full((1, columns), -127), np.tile([[127, -127]], columns // 2)]
        )
        its = abi.Matrix(abi.PACKED[kind.name], 32, columns, packed.ctypes.data, None)
        expected = x @ matrix.weights().astype(np.float64).T
        np.testing.assert_allclose(product(library, its, x.astype(np.float32)), expected, rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (5, 16), (40, 48), (33, 7)])
def test_dense_matrices(library: ctypes.CDLL, dtype: torch.dtype, rows: int, columns: int) -> None:
    torch.manual_seed(rows)
    weights, x = torch.randn(rows, columns).to(dtype), torch.randn(6, columns)
    kind = abi.DENSE_F32 if dtype is torch.float32 else abi.DENSE_BF16
    matrix = abi.Matrix(kind, rows, columns, weights.data_ptr(), None)
    actual = torch.from_numpy(product(library, matrix, x.numpy()))
    torch.testing.assert_close(actual, x @ weights.float().T, atol=1e-4, rtol=1e-4)
