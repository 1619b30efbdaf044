"""Attention of many queries over runs of the pool by src/many.c: what a prefill on a CPU does most.

torch's own kernel for CPUs multiplies bfloat16 no faster than float32 where the processor has AVX-512 BF16 without AMX,
and wants each run of float32 in a call of its own. Knows nothing of segments or layers.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.native import abi
from engine.native.library import load_library

_WIDTHS = (64, 128)

SPAN = np.dtype([("slot", np.int64), *((name, np.int32) for name in ("length", "start", "turn", "piece"))])
"""As src/many.h has it: consecutive slots, the position of the first, which turn of the queries reads them, and the
piece they are part of, −1 for none."""


@dataclass(frozen=True)
class Seen:
    """What some consecutive tokens of one sequence see, the first of which stands at `position`.

    Attributes:
        spans: of dtype `SPAN`, up to the last of the tokens; those of a piece stand together.
        turned: cosines and sines of each way in which queries are turned, float32 [turns, T, head_dim]; None if they
            are not.
        pieces: how many there are.
    """

    position: int
    spans: NDArray[np.void]
    turned: tuple[Tensor, Tensor] | None
    pieces: int = 0


@dataclass(frozen=True)
class Cache:
    """Keys and values of a layer, [kv_heads, slots, head_dim], and how they are looked at."""

    keys: Tensor
    values: Tensor
    scale: float
    window: int | None


class Many:
    """Attends by so many of OpenMP's threads, which are torch's: others would have to share cores with them."""

    def __init__(self, library: ctypes.CDLL, parallel: int, threads: int) -> None:
        """`parallel` is where OpenMP's function lies that starts them."""
        self._library = library
        self._parallel = parallel
        self._threads = threads

    def attend(self, cache: Cache, seen: Seen, q: Tensor, partners: Tensor, mixed: Tensor) -> Tensor:
        """Attention of q to `mixed`; returns the share that each piece is paid, float32 [pieces, heads, T].

        q, partners and mixed are [T, heads, head_dim] of the cache's dtype, the latter two contiguous, q but for the
        tokens; `partners` has in the place of each of q's numbers the one that it is turned with.
        """
        tokens, heads, head_dim = q.shape
        shares = torch.full((seen.pieces, heads, tokens), float("-inf"))
        cos, sin = (None, None) if seen.turned is None else (part.data_ptr() for part in seen.turned)
        many = abi.Many(
            heads=heads,
            kv_heads=len(cache.keys),
            tokens=tokens,
            head_dim=head_dim,
            spans=len(seen.spans),
            pieces=seen.pieces,
            position=seen.position,
            window=cache.window or 0,
            pairs=cache.keys.dtype == torch.bfloat16,
            scale=cache.scale,
            slots=cache.keys.shape[1],
            query_stride=q.stride(0),
            span=seen.spans.ctypes.data,
            keys=cache.keys.data_ptr(),
            values=cache.values.data_ptr(),
            queries=q.data_ptr(),
            partners=partners.data_ptr(),
            cos=cos,
            sin=sin,
            mixed=mixed.data_ptr(),
            shares=shares.data_ptr(),
        )
        self._library.ctx_attend_many(self._parallel, self._threads, ctypes.byref(many))
        return shares


def find_many(dtype: torch.dtype, head_dims: set[int]) -> Many | None:
    """It, where it is quicker than torch on this processor and can attend with a pool and heads like these."""
    library = load_library()
    if library is None or not head_dims <= set(_WIDTHS) or not _is_quicker(dtype):
        return None
    return make_many(library, torch.get_num_threads())


def _is_quicker(dtype: torch.dtype) -> bool:
    """Where it was compiled with instructions that multiply this dtype, and torch's own kernel has no better ones."""
    if dtype == torch.bfloat16:
        # with AMX torch's kernel multiplies in tiles
        return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
    return dtype == torch.float32 and torch.cpu._is_avx2_supported()


def make_many(library: ctypes.CDLL, threads: int) -> Many | None:
    """It, if this library was compiled with it and torch's threads are OpenMP's."""
    try:
        parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, TypeError):
        return None
    if parallel is None or not hasattr(library, "ctx_attend_many"):
        return None
    library.ctx_attend_many.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(abi.Many))
    library.ctx_attend_many.restype = None
    return Many(library, parallel, threads)
