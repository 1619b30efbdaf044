"""GGUF's blocks taken apart: the weights are those that the gguf package dequantizes, as near as each type allows."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.models.gguf_blocks import is_quantized, kind_of, loss, quantized

SCALES: dict[Type, tuple[int, ...]] = {
    Type.Q4_0: (0,),
    Type.Q4_1: (0, 2),
    Type.Q4_K: (0, 2),
    Type.Q5_0: (0,),
    Type.Q6_K: (208,),
    Type.Q8_0: (0,),
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108,),
    Type.Q5_1: (0, 2),
    Type.Q5_K: (0, 2),
    Type.IQ2_S: (0,),
    Type.IQ4_NL: (0,),
    Type.IQ4_XS: (0,),
}
"""Where a block of the type has its float16 scales; all other bytes may be anything."""

KINDS = {
    Type.Q4_0: "q4",
    Type.Q4_1: "q4",
    Type.Q4_K: "q4_k",
    Type.Q5_0: "q5",
    Type.Q5_K: "q5_k",
    Type.Q6_K: "q6_k",
    Type.Q8_0: "q8",
}


def random_rows(type: Type, seed: int, rows: int = 3) -> NDArray[np.uint8]:
    """[rows, bytes of 512 weights]."""
    random, (size, width) = np.random.default_rng(seed), gguf.GGML_QUANT_SIZES[type]
    blocks = random.integers(0, 256, (rows, 512 // size, width), dtype=np.uint8)
    for place in SCALES[type]:
        scales = random.normal(scale=0.01, size=(*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., place : place + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("type", SCALES)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_weights_are_the_files(type: Type, seed: int) -> None:
    rows = random_rows(type, seed)
    expected, matrix = gguf.dequantize(rows, type), quantized(rows, type)

    assert matrix.kind is kind_of(type)
    assert matrix.kind.name == KINDS.get(type, "q8")
    assert matrix.q.shape == expected.shape
    assert (matrix.q < 2**matrix.kind.bits).all()
    assert (loss(type) == 0) is (type in KINDS)
    assert (np.abs(matrix.weights() - expected) <= loss(type) * matrix.reach()).all()


@pytest.mark.parametrize("type", sorted(set(SCALES) - set(KINDS)))
@given(seed=st.integers(0, 2**32 - 1))
def test_what_fits_no_kind_loses_half_a_step_of_8_bits(type: Type, seed: int) -> None:
    rows = random_rows(type, seed)
    expected = gguf.dequantize(rows, type)
    groups = expected.reshape(len(rows), -1, 32)
    step = np.abs(groups).max(-1, keepdims=True) / 127 * (1 + 2.0**-10) + 2.0**-24  # the next one that is a float16
    error = np.abs(quantized(rows, type).weights().reshape(groups.shape) - groups)
    assert (error <= 0.5001 * step).all()


def test_a_group_of_zeros_stays_zero() -> None:
    weights = np.zeros((16, 64), np.float32)
    assert not quantized(gguf.quantize(weights, Type.Q5_1), Type.Q5_1).weights().any()


def test_floats_are_not_quantized() -> None:
    assert not any(is_quantized(type) for type in (Type.F32, Type.F16, Type.BF16))
    assert all(is_quantized(type) for type in SCALES)
