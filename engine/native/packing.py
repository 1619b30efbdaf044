"""The layout of packed matrices: quantized weights in the order in which a kernel for CPUs reads them, and back.

A matrix [rows, columns] is cut into blocks of 16 rows × 32 columns, each a run of bytes that `layout` spells out; the
kernel has the same as a struct. Knows numpy only: no file, no model, and none of the formats that weights come in.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 16
BLOCK_COLUMNS = 32

_QUADS = BLOCK_COLUMNS // 4
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
        has_min: whether each group has a minimum.
    """

    name: str
    bits: int
    group: int
    offset: int
    has_min: bool = False

    @property
    def block_bytes(self) -> int:
        return layout(self).itemsize

    @property
    def planes(self) -> int | None:
        """Bits that lie beside the lower four; None where q is a whole byte."""
        return self.bits - 4 if self.bits < 8 else None


Q4 = Kind("q4", bits=4, group=32, offset=0, has_min=True)
Q5 = Kind("q5", bits=5, group=32, offset=16)
Q6 = Kind("q6", bits=6, group=16, offset=32)
Q8 = Kind("q8", bits=8, group=32, offset=128)

KINDS = {kind.name: kind for kind in (Q4, Q5, Q6, Q8)}


@functools.cache
def layout(kind: Kind) -> np.dtype[np.void]:
    """One block. Scales and minima are those of 16 rows; values are quads of columns, of one row after the other.

    Eight bits are whole bytes. Fewer are split: `low` has four bits of quads 0 to 3 in the lower halves of its bytes,
    of 4 to 7 in the upper ones; each plane of `high` has one more bit of all quads: of each a 64-bit number, the lowest
    bit of which belongs to the first column of the first row.
    """
    scales = (BLOCK_COLUMNS // kind.group, BLOCK_ROWS)
    fields: list[tuple[str, str, tuple[int, ...]]] = [("scales", "<f2", scales)]
    if kind.has_min:
        fields.append(("mins", "<f2", scales))
    if kind.planes is None:
        fields.append(("bytes", "u1", (_QUADS, _QUAD_BYTES)))
    else:
        fields.append(("low", "u1", (_QUADS // 2, _QUAD_BYTES)))
        fields.append(("high", "u1", (kind.planes, _QUADS, _QUAD_BYTES // 8)))
    return np.dtype(fields)


@dataclass(frozen=True)
class Quantized:
    """A matrix, or some of its rows, as whole numbers and what makes weights of them.

    Attributes:
        kind: says how.
        q: [rows, columns], uint8, each below 2 ** kind.bits.
        scales: [rows, columns / kind.group], float16.
        mins: likewise, where the kind has minima; else None.
    """

    kind: Kind
    q: NDArray[np.uint8]
    scales: NDArray[np.float16]
    mins: NDArray[np.float16] | None = None

    def weights(self) -> NDArray[np.float32]:
        """[rows, columns]."""
        grouped = self.q.reshape(len(self.q), -1, self.kind.group).astype(np.float32)
        grouped -= np.float32(self.kind.offset)
        grouped *= self.scales[..., None].astype(np.float32)
        if self.mins is not None:
            grouped += self.mins[..., None].astype(np.float32)
        return grouped.reshape(self.q.shape)


def fits(rows: int, columns: int) -> bool:
    """Whether a matrix of this shape can be cut into blocks."""
    return rows > 0 and columns > 0 and rows % BLOCK_ROWS == 0 and columns % BLOCK_COLUMNS == 0


def packed_shape(kind: Kind, rows: int, columns: int) -> tuple[int, int, int]:
    """[rows / 16, columns / 32, bytes of a block]."""
    return rows // BLOCK_ROWS, columns // BLOCK_COLUMNS, kind.block_bytes


def pack(matrix: Quantized) -> NDArray[np.uint8]:
    """Bytes of `packed_shape`, for a matrix that `fits`. Takes a few times its q in memory meanwhile."""
    kind, shape = matrix.kind, packed_shape(matrix.kind, *matrix.q.shape)
    blocks = np.empty(shape[:2], layout(kind))
    blocks["scales"] = _cut(matrix.scales, BLOCK_COLUMNS // kind.group)
    if matrix.mins is not None:
        blocks["mins"] = _cut(matrix.mins, BLOCK_COLUMNS // kind.group)
    quads = _cut_quads(matrix.q)
    if kind.planes is None:
        blocks["bytes"] = quads
    else:
        blocks["low"] = quads[:, :, : _QUADS // 2] & 15 | quads[:, :, _QUADS // 2 :] << 4
        for plane in range(kind.planes):
            blocks["high"][:, :, plane] = np.packbits(quads >> 4 + plane & 1, axis=-1, bitorder="little")
    return blocks.view(np.uint8).reshape(shape)


def unpack(kind: Kind, packed: NDArray[np.uint8]) -> Quantized:
    """The matrix that `pack` made these bytes of: the reference for whatever reads them."""
    blocks = np.ascontiguousarray(packed).view(layout(kind))[..., 0]
    if kind.planes is None:
        quads = blocks["bytes"]
    else:
        quads = np.concatenate([blocks["low"] & 15, blocks["low"] >> 4], axis=2)
        for plane in range(kind.planes):
            quads |= np.unpackbits(blocks["high"][:, :, plane], axis=-1, bitorder="little") << 4 + plane
    mins = _joined(blocks["mins"]) if kind.has_min else None
    return Quantized(kind, _joined_quads(quads), _joined(blocks["scales"]), mins)


# -- cutting a matrix into blocks, and joining it again ----------------------------------------------------------------


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
