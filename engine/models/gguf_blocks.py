"""GGUF's quantized blocks as whole numbers and scales, in the kinds that packed matrices have.

What the `gguf` package has only as dequantized floats is taken apart here for the types that fit a kind as they are;
every other type is dequantized and rounded anew, to 8 bits. Knows no names, no files and no layout but GGUF's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import Q4_K, dequantize  # gguf.dequantize is replaced while a conversion counts its calls
from numpy.typing import NDArray

from engine.native.packing import Q4, Q5, Q6, Q8, Kind, Quantized

Bytes = NDArray[np.uint8]

Parts = tuple[Bytes, NDArray[np.float16], NDArray[np.float16] | None]
"""q, scales and minima, as `Quantized` has them."""

FLOAT16_ROUNDING = 2.0**-11
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
        return Quantized(Q8, *_anew(dequantize(rows, type)))
    kind, read = _FITTING[type]
    return Quantized(kind, *read(rows.reshape(len(rows), -1, GGML_QUANT_SIZES[type][1])))


def loss(type: GGMLQuantizationType) -> float:
    """How far a weight of `quantized` may be from the GGUF's, as a share of what the numbers of its group can reach.

    That is `scale · 2 ** bits + min`, both without sign. Types that fit a kind lose what float16 scales can't say,
    others at most a step of 8 bits.
    """
    return FLOAT16_ROUNDING if type in _FITTING else ROUNDING_ANEW


# -- types that fit a kind: blocks [rows, blocks of a row, bytes] ------------------------------------------------------


def _q4_0(blocks: Bytes) -> Parts:
    d = _floats(blocks[..., :2])
    return _rows(_nibbles(blocks[..., 2:], 16)), _scales(d), _scales(-8 * d)


def _q4_1(blocks: Bytes) -> Parts:
    d, m = _floats(blocks[..., :2]), _floats(blocks[..., 2:4])
    return _rows(_nibbles(blocks[..., 4:], 16)), _scales(d), _scales(m)


def _q4_k(blocks: Bytes) -> Parts:
    d, dmin = _floats(blocks[..., :2]), _floats(blocks[..., 2:4])
    scales, mins = Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12))
    groups = (*blocks.shape[:2], 8)
    q = _rows(_nibbles(blocks[..., 16:], 32))
    return q, _scales(d * scales.reshape(groups)), _scales(-dmin * mins.reshape(groups))


def _q5_0(blocks: Bytes) -> Parts:
    low, high = _nibbles(blocks[..., 6:], 16), np.unpackbits(blocks[..., 2:6], axis=-1, bitorder="little")
    return _rows(low) | _rows(high) << np.uint8(4), _scales(_floats(blocks[..., :2])), None


def _q6_k(blocks: Bytes) -> Parts:
    low, high = _nibbles(blocks[..., :128], 64), _shifted(blocks[..., 128:192], 32, (0, 2, 4, 6)) & np.uint8(3)
    scales = _floats(blocks[..., 208:]) * blocks[..., 192:208].view(np.int8)
    return _rows(low) | _rows(high) << np.uint8(4), _scales(scales), None


def _q8_0(blocks: Bytes) -> Parts:
    return _rows(blocks[..., 2:] ^ np.uint8(128)), _scales(_floats(blocks[..., :2])), None  # adds 128


_FITTING: dict[GGMLQuantizationType, tuple[Kind, Callable[[Bytes], Parts]]] = {
    GGMLQuantizationType.Q4_0: (Q4, _q4_0),
    GGMLQuantizationType.Q4_1: (Q4, _q4_1),
    GGMLQuantizationType.Q4_K: (Q4, _q4_k),
    GGMLQuantizationType.Q5_0: (Q5, _q5_0),
    GGMLQuantizationType.Q6_K: (Q6, _q6_k),
    GGMLQuantizationType.Q8_0: (Q8, _q8_0),
}


def _floats(blocks: Bytes) -> NDArray[np.float32]:
    """float16 in bytes [..., 2 · n] as float32 [..., n]."""
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def _scales(scales: NDArray[np.float32]) -> NDArray[np.float16]:
    """[rows, blocks, groups of a block] as [rows, groups of a row]."""
    return scales.reshape(len(scales), -1).astype(np.float16)


def _rows(values: Bytes) -> Bytes:
    return values.reshape(len(values), -1)


def _nibbles(values: Bytes, run: int) -> Bytes:
    """[..., bytes] as [..., runs, 2, run]: of each run of bytes first the lower halves, then the upper ones."""
    return _shifted(values, run, (0, 4)) & np.uint8(15)


def _shifted(values: Bytes, run: int, shifts: tuple[int, ...]) -> Bytes:
    """[..., bytes] as [..., runs, shifts, run]: each run of bytes shifted to the right by each of `shifts`."""
    return values.reshape(*values.shape[:-1], -1, 1, run) >> np.array(shifts, np.uint8)[:, None]


# -- every other type --------------------------------------------------------------------------------------------------


def _anew(weights: NDArray[np.float32]) -> Parts:
    """[rows, columns], rounded to 255 steps, of which the outermost reaches a group's largest weight."""
    groups = weights.reshape(len(weights), -1, Q8.group)
    scales = _rounded_up(np.abs(groups).max(axis=-1) / 127)
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    q = np.rint(groups / steps[..., None]) + Q8.offset
    return _rows(q.astype(np.uint8)), scales, None


def _rounded_up(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """To float16, never below the value, so that no weight lies beyond the grid."""
    nearest = values.astype(np.float16)
    return np.where(nearest < values, np.nextafter(nearest, np.float16(np.inf)), nearest)
