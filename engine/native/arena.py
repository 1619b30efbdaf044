"""Memory that is read from end to end for every token: huge pages, where the system has them.

Read through pages of 4 KiB, memory was a third slower on the machine of docs/benchmarks.md.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

_ALIGNMENT = 64


class Arena:
    """Copies of tensors, one behind the other. It lives as long as any of them."""

    def __init__(self, tensors: int, size: int) -> None:
        """Room for so many tensors of `size` bytes together."""
        room = max(1, size + (tensors + 1) * _ALIGNMENT)
        self._memory = torch.frombuffer(_mapped(room), dtype=torch.uint8)
        self._used = -self._memory.data_ptr() % _ALIGNMENT

    def copy(self, tensor: Tensor) -> Tensor:
        """A contiguous copy, its first byte at a multiple of 64."""
        size = tensor.numel() * tensor.element_size()
        room = self._memory[self._used : self._used + size].view(tensor.dtype).view(tensor.shape)
        self._used += size + -size % _ALIGNMENT
        return room.copy_(tensor)


def _mapped(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size)
    # private: few systems have huge pages for memory that could be shared, which is mmap's default
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
