"""The layout of packed matrices: quantized weights in the order in which a kernel for CPUs reads them, and back.

A matrix [rows, columns] is cut into blocks of 16 rows × 32 columns, or × 256 where scales have steps. Each is a run of
bytes that `layout` spells out; the kernel has the same as offsets. Knows numpy only: no file, no model, and none of the
formats that weights come in.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 16
PART_COLUMNS = 32
_PARTS = 8
"""Parts of a block whose scales have steps."""

_QUADS = PART_COLUMNS // 4
"""A quad is four columns of a row: what the kernel multiplies and adds up in one lane."""
_QUAD_BYTES = BLOCK_ROWS * 4


@dataclass(frozen=True)
class Kind:
    """How the weights of a matrix are quantized: a weight is `scale · (q − offset) + min`.

    Attributes:
        name: what files call it.
        bits: of q, which has no sign.
        group: columns of a row that share a scale, 16 or 32.
        offset: the q that stands for zero; 0 where a minimum takes its place.
        has_min: whether each 32 columns of a row have a minimum.
        stepped: whether scales and minima are 8-bit multiples of steps, which 256 columns of a row share.
    """

    name: str
    bits: int
    group: int
    offset: int
    has_min: bool = False
    stepped: bool = False

    @property
    def columns(self) -> int:
        """Of a block."""
        return PART_COLUMNS * self.parts

    @property
    def parts(self) -> int:
        """Of a block, 32 columns each."""
        return _PARTS if self.stepped else 1

    @property
    def block_bytes(self) -> int:
        return layout(self).itemsize

    @property
    def planes(self) -> int | None:
        """Bits that lie beside the lower four; None where q is a whole byte."""
        return self.bits - 4 if self.bits < 8 else None


Q4 = Kind("q4", bits=4, group=32, offset=0, has_min=True)
Q5 = Kind("q5", bits=5, group=32, offset=16)
Q8 = Kind("q8", bits=8, group=32, offset=128)
Q4_K = Kind("q4_k", bits=4, group=32, offset=0, has_min=True, stepped=True)
Q5_K = Kind("q5_k", bits=5, group=32, offset=0, has_min=True, stepped=True)
Q6_K = Kind("q6_k", bits=6, group=16, offset=32, stepped=True)

KINDS = {kind.name: kind for kind in (Q4, Q5, Q8, Q4_K, Q5_K, Q6_K)}


@functools.cache
def layout(kind: Kind) -> np.dtype[np.void]:
    """One block. Steps, scales and minima are of 16 rows each; values are quads of columns, of one row after the other.

    Eight bits are whole bytes. Fewer are split: `low` has four bits of quads 0 to 3 in the lower halves of its bytes,
    of 4 to 7 in the upper ones; each plane of `high` has one more bit of all quads: of each a 64-bit number, the lowest
    bit of which belongs to the first column of the first row.
    """
    number = "i1" if kind.stepped else "<f2"
    part: list[tuple[str, str, tuple[int, ...]]] = [("scales", number, (PART_COLUMNS // kind.group, BLOCK_ROWS))]
    if kind.has_min:
        part.append(("mins", number, (1, BLOCK_ROWS)))
    if kind.planes is None:
        part.append(("bytes", "u1", (_QUADS, _QUAD_BYTES)))
    else:
        part.append(("low", "u1", (_QUADS // 2, _QUAD_BYTES)))
        part.append(("high", "u1", (kind.planes, _QUADS, _QUAD_BYTES // 8)))
    steps = [(name, "<f2", (1, BLOCK_ROWS)) for name in _steps(kind)]
    return np.dtype([*steps, ("parts", part, (kind.parts,))])


def _steps(kind: Kind) -> tuple[str, ...]:
    if not kind.stepped:
        return ()
    return ("scale_steps", "min_steps") if kind.has_min else ("scale_steps",)


Numbers = NDArray[np.float16] | NDArray[np.int8]


@dataclass(frozen=True)
class Quantized:
    """A matrix, or some of its rows, as whole numbers and what makes weights of them.

    Attributes:
        kind: says how.
        q: [rows, columns], uint8, each below 2 ** kind.bits.
        scales: [rows, columns / kind.group]; float16, or int8 where the kind has steps.
        mins: [rows, columns / 32], likewise, where the kind has minima; else None.
        scale_steps, min_steps: [rows, columns / 256], float16, what a scale and a minimum are multiples of; None where
            they stand for themselves.
    """

    kind: Kind
    q: NDArray[np.uint8]
    scales: Numbers
    mins: Numbers | None = None
    scale_steps: NDArray[np.float16] | None = None
    min_steps: NDArray[np.float16] | None = None

    def weights(self) -> NDArray[np.float32]:
        """[rows, columns]."""
        weights = self.q.astype(np.float32) - np.float32(self.kind.offset)
        weights *= self._for_each_column(self.scales, self.scale_steps)
        if self.mins is not None:
            weights += self._for_each_column(self.mins, self.min_steps)
        return weights

    def reach(self) -> NDArray[np.float32]:
        """[rows, columns]: what the numbers of a weight's group can reach, `scale · 2 ** bits + min` without sign."""
        reach = np.abs(self._for_each_column(self.scales, self.scale_steps))
        reach *= 2**self.kind.bits
        if self.mins is not None:
            reach += np.abs(self._for_each_column(self.mins, self.min_steps))
        return reach

    def _for_each_column(self, numbers: Numbers, steps: NDArray[np.float16] | None) -> NDArray[np.float32]:
        whole: NDArray[np.float32] = numbers.astype(np.float32)
        if steps is not None:
            whole *= np.repeat(steps.astype(np.float32), whole.shape[1] // steps.shape[1], axis=1)
        return np.repeat(whole, self.q.shape[1] // whole.shape[1], axis=1)


def fits(kind: Kind, rows: int, columns: int) -> bool:
    """Whether a matrix of this shape can be cut into blocks."""
    return rows > 0 and columns > 0 and rows % BLOCK_ROWS == 0 and columns % kind.columns == 0


def packed_shape(kind: Kind, rows: int, columns: int) -> tuple[int, int, int]:
    """[rows / 16, columns / kind.columns, bytes of a block]."""
    return rows // BLOCK_ROWS, columns // kind.columns, kind.block_bytes


def pack(matrix: Quantized) -> NDArray[np.uint8]:
    """Bytes of `packed_shape`, for a matrix that `fits`. Takes a few times its q in memory meanwhile."""
    kind, shape = matrix.kind, packed_shape(matrix.kind, *matrix.q.shape)
    blocks = np.empty(shape[:2], layout(kind))
    for name in _steps(kind):
        blocks[name] = _cut(getattr(matrix, name), 1)
    parts = blocks["parts"]
    parts["scales"] = _in_parts(_cut(matrix.scales, PART_COLUMNS // kind.group), kind)
    if matrix.mins is not None:
        parts["mins"] = _in_parts(_cut(matrix.mins, 1), kind)
    quads = _in_parts(_cut_quads(matrix.q), kind)
    if kind.planes is None:
        parts["bytes"] = quads
    else:
        parts["low"] = quads[..., : _QUADS // 2, :] & 15 | quads[..., _QUADS // 2 :, :] << 4
        for plane in range(kind.planes):
            parts["high"][..., plane, :, :] = np.packbits(quads >> 4 + plane & 1, axis=-1, bitorder="little")
    return blocks.view(np.uint8).reshape(shape)


def unpack(kind: Kind, packed: NDArray[np.uint8]) -> Quantized:
    """The matrix that `pack` made these bytes of: the reference for whatever reads them."""
    blocks = np.ascontiguousarray(packed).view(layout(kind))[..., 0]
    parts = blocks["parts"]
    if kind.planes is None:
        quads = parts["bytes"]
    else:
        quads = np.concatenate([parts["low"] & 15, parts["low"] >> 4], axis=-2)
        for plane in range(kind.planes):
            quads |= np.unpackbits(parts["high"][..., plane, :, :], axis=-1, bitorder="little") << 4 + plane
    return Quantized(
        kind,
        _joined_quads(_in_row(quads)),
        _joined(_in_row(parts["scales"])),
        _joined(_in_row(parts["mins"])) if kind.has_min else None,
        **{name: _joined(blocks[name]) for name in _steps(kind)},
    )


# -- cutting a matrix into blocks, and joining it again ----------------------------------------------------------------


def _in_parts(cut: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """[rows / 16, columns / 32, …] as [rows / 16, blocks, parts, …]."""
    return cut.reshape(len(cut), -1, kind.parts, *cut.shape[2:])


def _in_row(parts: NDArray[Any]) -> NDArray[Any]:
    """The way back from `_in_parts`."""
    return parts.reshape(len(parts), -1, *parts.shape[3:])


def _cut(matrix: NDArray[Any], width: int) -> NDArray[Any]:
    """A view: [rows, n · width] as [rows / 16, n, width, 16]."""
    return matrix.reshape(len(matrix) // BLOCK_ROWS, BLOCK_ROWS, -1, width).transpose(0, 2, 3, 1)


def _joined(blocks: NDArray[Any]) -> NDArray[Any]:
    """A copy: [rows / 16, n, width, 16] as [rows, n · width]."""
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2)).reshape(len(blocks) * BLOCK_ROWS, -1)


def _cut_quads(q: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[rows, columns] to [rows / 16, columns / 32, 8 quads, 64]; a quad's four bytes are moved as one."""
    return np.ascontiguousarray(_cut(np.ascontiguousarray(q).view(np.uint32), _QUADS)).view(np.uint8)


def _joined_quads(quads: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The way back from `_cut_quads`."""
    return _joined(np.ascontiguousarray(quads).view(np.uint32)).view(np.uint8)
