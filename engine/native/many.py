"""Attention of many queries over runs of the pool by src/many.c: what a prefill on a CPU does most.

torch's own kernel for CPUs multiplies bfloat16 no faster than float32 where the processor has AVX-512 BF16 without AMX.
Knows nothing of segments, positions or rotations.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.native.library import load_library

LEAST_TOKENS = 16
"""Fewer are too few for what is laid out anew for them."""
_WIDTHS = (64, 128)


@dataclass(frozen=True)
class Seen:
    """Keys and values of consecutive slots, views [kv_heads, n, head_dim] of one pool, and what reads all of them.

    `queries` are [heads, T, head_dim] of bfloat16, contiguous, T and heads the same for all that is seen together.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor


class ManyAttention:
    """Threads of its own that attend; one call at a time, from any thread."""

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        """May raise MemoryError."""
        self._library = library
        self._crew = library.crew_new(threads)
        if not self._crew:
            raise MemoryError("no threads for attention")
        weakref.finalize(self, library.crew_free, self._crew)

    def attend(self, seen: Sequence[Seen], scale: float) -> tuple[Tensor, Tensor]:
        """Attention over all that is seen: float32 [heads, T, head_dim], and its natural LSE [heads, T]."""
        queries, keys = seen[0].queries, seen[0].keys
        heads, tokens, head_dim = queries.shape
        mixed, lse = torch.empty(queries.shape, dtype=torch.float32), torch.empty(heads, tokens)
        spans = (_Span * len(seen))(*map(_span, seen))
        many = _Many(
            heads,
            len(keys),
            tokens,
            head_dim,
            len(seen),
            keys.stride(0),
            scale,
            spans,
            mixed.data_ptr(),
            lse.data_ptr(),
        )
        self._library.ctx_attend_many(self._crew, ctypes.byref(many))
        return mixed, lse


def find_many(dtype: torch.dtype, head_dims: set[int]) -> ManyAttention | None:
    """It, where it is quicker than torch on this processor and can attend with a pool and heads like these."""
    library = load_library()
    if library is None or dtype != torch.bfloat16 or not head_dims <= set(_WIDTHS):
        return None
    # with AMX torch's kernel is quicker: it multiplies in tiles
    if not torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return None
    return make_many(library, torch.get_num_threads())


def make_many(library: ctypes.CDLL, threads: int) -> ManyAttention | None:
    """It, if this library was compiled with it."""
    if not hasattr(library, "ctx_attend_many"):
        return None
    library.crew_new.argtypes, library.crew_new.restype = (ctypes.c_int,), ctypes.c_void_p
    library.crew_free.argtypes, library.crew_free.restype = (ctypes.c_void_p,), None
    library.ctx_attend_many.argtypes, library.ctx_attend_many.restype = (ctypes.c_void_p, ctypes.POINTER(_Many)), None
    return ManyAttention(library, threads)


# -- as src/many.h has them --------------------------------------------------------------------------------------------


class _Span(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_void_p) for name in ("keys", "values", "queries")), ("length", ctypes.c_int64))


class _Many(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "tokens", "head_dim", "spans")),
        ("head_stride", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("span", ctypes.POINTER(_Span)),
        *((name, ctypes.c_void_p) for name in ("mixed", "lse")),
    )


def _span(seen: Seen) -> _Span:
    pointers = (tensor.data_ptr() for tensor in (seen.keys, seen.values, seen.queries))
    return _Span(*pointers, seen.keys.shape[1])
