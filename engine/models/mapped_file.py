"""A safetensors file as one mapping, of which tensors are views: they take no memory beyond the system's cache.

Asks `safetensors` for what a file holds, in which order; knows nothing of what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Place:
    """Where in the file a tensor lies, in bytes, and what it is."""

    begin: int
    end: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class MappedFile:
    """The mapping lives as long as a view of it, whatever becomes of the file's name.

    It is private: what somebody writes to a view by mistake is seen in this process, but never in the file.
    """

    def __init__(self, path: Path, file: Any) -> None:
        """`file` is the one at `path`, opened by `safe_open`."""
        self._bytes = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        self._places: dict[str, _Place] = {}
        end = len(self._bytes)
        for name in reversed(file.offset_keys()):  # the format allows no gaps, and its tensors end where the file does
            tensor = file.get_tensor(name)
            begin = end - tensor.nbytes
            self._places[name] = _Place(begin, end, tensor.dtype, tuple(tensor.shape))
            end = begin

    def stacked(self, names: Sequence[str], dtype: torch.dtype) -> Tensor | None:
        """The tensors, one upon the other, as they lie in the file; None where they don't, or are of another dtype."""
        places = [self._places[name] for name in names]
        begin, end = places[0].begin, places[-1].end
        adjoining = all(one.end == other.begin for one, other in pairwise(places))
        if not adjoining or begin % dtype.itemsize or any(place.dtype != dtype for place in places):
            return None
        return self._bytes[begin:end].view(dtype).view(-1, *places[0].shape[1:])
