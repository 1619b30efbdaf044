"""GGUF's quantized blocks as whole numbers and scales, in the kinds that packed matrices have.

What the `gguf` package has only as dequantized floats is taken apart here for the types that fit a kind as they are;
every other type is dequantized and rounded anew, to 8 bits. Knows no names, no files and no layout but GGUF's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import Q4_K as GGUF_Q4_K
from gguf.quants import dequantize  # gguf.dequantize is replaced while a conversion counts its calls
from numpy.typing import NDArray

from engine.native.packing import Q4, Q4_K, Q5, Q5_K, Q6_K, Q8, Kind, Quantized

Bytes = NDArray[np.uint8]

ROUNDING_ANEW = 2.0**-8


def is_quantized(type: GGMLQuantizationType) -> bool:
    """Whether its weights come in blocks; plain floats don't."""
    return bool(GGML_QUANT_SIZES[type][0] > 1)


def kind_of(type: GGMLQuantizationType) -> Kind:
    """What `quantized` makes of it."""
    return _FITTING[type][0] if type in _FITTING else Q8


def quantized(rows: Bytes, type: GGMLQuantizationType) -> Quantized:
    """Rows of a tensor, [rows, bytes of a row] of a quantized type.

    Scales beyond float16 become infinite, with numpy's warning.
    """
    if type not in _FITTING:
        return _anew(dequantize(rows, type))
    return _FITTING[type][1](rows.reshape(len(rows), -1, GGML_QUANT_SIZES[type][1]))


def loss(type: GGMLQuantizationType) -> float:
    """How far a weight of `quantized` may be from the GGUF's, as a share of `Quantized.reach`.

    Types that fit a kind lose nothing, others at most a step of 8 bits.
    """
    return 0.0 if type in _FITTING else ROUNDING_ANEW


# -- types that fit a kind: blocks [rows, blocks of a row, bytes] ------------------------------------------------------


def _q4_0(blocks: Bytes) -> Quantized:
    d = _halves(blocks[..., :2])
    return Quantized(Q4, _in_row(_nibbles(blocks[..., 2:], 16)), d, d * np.float16(-8))


def _q4_1(blocks: Bytes) -> Quantized:
    d, m = _halves(blocks[..., :2]), _halves(blocks[..., 2:4])
    return Quantized(Q4, _in_row(_nibbles(blocks[..., 4:], 16)), d, m)


def _q4_k(blocks: Bytes) -> Quantized:
    return _k(Q4_K, _in_row(_nibbles(blocks[..., 16:], 32)), blocks)


def _q5_0(blocks: Bytes) -> Quantized:
    low, high = _nibbles(blocks[..., 6:], 16), np.unpackbits(blocks[..., 2:6], axis=-1, bitorder="little")
    return Quantized(Q5, _in_row(low) | _in_row(high) << np.uint8(4), _halves(blocks[..., :2]))


def _q5_k(blocks: Bytes) -> Quantized:
    low, high = _nibbles(blocks[..., 48:], 32), _shifted(blocks[..., 16:48], 32, tuple(range(8))) & np.uint8(1)
    return _k(Q5_K, _in_row(low) | _in_row(high) << np.uint8(4), blocks)


def _q6_k(blocks: Bytes) -> Quantized:
    low, high = _nibbles(blocks[..., :128], 64), _shifted(blocks[..., 128:192], 32, (0, 2, 4, 6)) & np.uint8(3)
    q = _in_row(low) | _in_row(high) << np.uint8(4)
    return Quantized(Q6_K, q, _in_row(blocks[..., 192:208].view(np.int8)), scale_steps=_halves(blocks[..., 208:]))


def _q8_0(blocks: Bytes) -> Quantized:
    return Quantized(Q8, _in_row(blocks[..., 2:] ^ np.uint8(128)), _halves(blocks[..., :2]))  # adds 128


_FITTING: dict[GGMLQuantizationType, tuple[Kind, Callable[[Bytes], Quantized]]] = {
    GGMLQuantizationType.Q4_0: (Q4, _q4_0),
    GGMLQuantizationType.Q4_1: (Q4, _q4_1),
    GGMLQuantizationType.Q4_K: (Q4_K, _q4_k),
    GGMLQuantizationType.Q5_0: (Q5, _q5_0),
    GGMLQuantizationType.Q5_K: (Q5_K, _q5_k),
    GGMLQuantizationType.Q6_K: (Q6_K, _q6_k),
    GGMLQuantizationType.Q8_0: (Q8, _q8_0),
}


def _k(kind: Kind, q: Bytes, blocks: Bytes) -> Quantized:
    """A type whose blocks begin with the steps of scales and minima and 6 bits of each of these."""
    scales, mins = GGUF_Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12))
    scales, mins = (numbers.astype(np.int8).reshape(len(blocks), -1) for numbers in (scales, mins))
    return Quantized(kind, q, scales, mins, _halves(blocks[..., :2]), -_halves(blocks[..., 2:4]))


def _halves(blocks: Bytes) -> NDArray[np.float16]:
    """float16 in bytes [rows, blocks, 2] as [rows, blocks]."""
    return _in_row(np.ascontiguousarray(blocks).view("<f2"))


def _in_row(values: NDArray[Any]) -> NDArray[Any]:
    """[rows, …] as [rows, numbers of a row]."""
    return values.reshape(len(values), -1)


def _nibbles(values: Bytes, run: int) -> Bytes:
    """[..., bytes] as [..., runs, 2, run]: of each run of bytes first the lower halves, then the upper ones."""
    return _shifted(values, run, (0, 4)) & np.uint8(15)


def _shifted(values: Bytes, run: int, shifts: tuple[int, ...]) -> Bytes:
    """[..., bytes] as [..., runs, shifts, run]: each run of bytes shifted to the right by each of `shifts`."""
    return values.reshape(*values.shape[:-1], -1, 1, run) >> np.array(shifts, np.uint8)[:, None]


# -- every other type --------------------------------------------------------------------------------------------------


def _anew(weights: NDArray[np.float32]) -> Quantized:
    """[rows, columns], rounded to 255 steps, of which the outermost reaches a group's largest weight."""
    groups = weights.reshape(len(weights), -1, Q8.group)
    scales = _rounded_up(np.abs(groups).max(axis=-1) / 127)
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    q = np.rint(groups / steps[..., None]) + Q8.offset
    return Quantized(Q8, _in_row(q.astype(np.uint8)), scales)


def _rounded_up(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """To float16, never below the value, so that no weight lies beyond the grid."""
    nearest = values.astype(np.float16)
    return np.where(nearest < values, np.nextafter(nearest, np.float16(np.inf)), nearest)
