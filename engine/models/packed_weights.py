"""The file of packed matrices beside a model's safetensors: quantized weights for a kernel on the CPU.

It is a safetensors file whose metadata names the kind of each tensor; what a kind is, `engine.native.packing` says.
Knows neither where the weights came from nor what computes with them.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import BrokenModelError
from engine.native.packing import BLOCK_ROWS, KINDS, Kind, unpack

PACKED = "packed.safetensors"


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [rows, columns] in blocks.

    Attributes:
        kind: of its blocks.
        data: [rows / 16, columns / kind.columns, kind.block_bytes], uint8, contiguous.
        mapped: `data` is a file's, and nobody writes to it.
    """

    kind: Kind
    data: Tensor
    mapped: bool = False

    @property
    def rows(self) -> int:
        return self.data.shape[0] * BLOCK_ROWS

    @property
    def columns(self) -> int:
        return self.data.shape[1] * self.kind.columns

    def forget(self) -> None:
        """Give back the memory that a file's pages take in this process. They are read anew when they are next used."""
        if not self.mapped or sys.platform != "linux":
            return
        begin = -(-self.data.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (self.data.data_ptr() + self.data.nbytes - begin) // mmap.PAGESIZE * mmap.PAGESIZE
        if size > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED)

    def weights(self) -> Tensor:
        """[rows, columns], float32: the reference for what computes with the blocks."""
        return torch.from_numpy(unpack(self.kind, self.data.numpy()).weights())


def save_packed(matrices: Mapping[str, PackedMatrix], folder: Path) -> None:
    """Write them, by the names that the same matrices have in the model's own safetensors."""
    kinds = {name: matrix.kind.name for name, matrix in matrices.items()}
    save_file({name: matrix.data for name, matrix in matrices.items()}, folder / PACKED, metadata=kinds)


def open_packed(folder: Path) -> dict[str, PackedMatrix]:
    """The packed matrices in `folder` by name; none if there is no such file. Mapped: read when they are first used.

    Raises:
        BrokenModelError: the file is damaged, or holds what this version doesn't know.
    """
    path = folder / PACKED
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            kinds = file.metadata() or {}
            return {name: _matrix(name, kinds, file) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError) as error:
        raise BrokenModelError(f"{path} can't be read: {error}; convert the model again", file=path.name) from error


def _matrix(name: str, kinds: dict[str, str], file: Any) -> PackedMatrix:
    kind, data = KINDS.get(kinds.get(name, "")), file.get_tensor(name)
    if kind is None:
        raise BrokenModelError(f"{name} is packed as {kinds.get(name)}; known are {', '.join(KINDS)}", tensor=name)
    if data.dtype != torch.uint8 or data.dim() != 3 or data.shape[2] != kind.block_bytes:
        found = f"{data.dtype} of shape {tuple(data.shape)}"
        raise BrokenModelError(f"{name} holds {found}; {kind.name} has blocks of {kind.block_bytes} bytes", tensor=name)
    return PackedMatrix(kind, data, mapped=True)
