"""flash-attn as its documentation and source say it behaves, in plain torch: one module per version, for the CPU.

It checks what the real functions check, reads keys only where the real kernels do, and keeps their conventions.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engine.attention.dense import _attend_plain

TILE = 128


def _attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, softcap: float, causal: bool) -> tuple[Tensor, Tensor]:
    """One sequence: q [n, heads, d] over k and v [m, kv_heads, d]; causal is aligned to the last key."""
    n, m = len(q), len(k)
    asked, keys = torch.arange(n, device=q.device), torch.arange(m, device=q.device)
    allowed = keys <= asked[:, None] + m - n if causal else None
    q, k, v = (tensor.transpose(0, 1) for tensor in (q, k, v))
    out, lse = _attend_plain(q, k, v, scale=scale, causal=False, allowed=allowed, softcap=softcap or None)
    return out.transpose(0, 1), lse


def _check(q: Tensor, k: Tensor, v: Tensor, *integers: Tensor) -> None:
    assert q.dtype == k.dtype == v.dtype
    assert q.dtype in (torch.bfloat16, torch.float16)
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert k.shape == v.shape
    assert q.shape[-1] == k.shape[-1] <= 256
    assert q.shape[-1] % 8 == 0
    assert q.shape[1] % k.shape[-2] == 0
    for tensor in integers:
        assert tensor.dtype == torch.int32
        assert tensor.is_contiguous()


def _collect(q: Tensor, parts: list[tuple[Tensor, Tensor]], empty: float) -> tuple[Tensor, Tensor]:
    """[T, heads, d] and LSE float32 [heads, T], where a query that sees nothing has the version's number."""
    outs, sums = zip(*parts, strict=True)
    lse = torch.cat(sums, 1)
    return torch.cat(outs).to(q.dtype), lse.masked_fill(lse == float("-inf"), empty)


def _varlen_2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Any:
    assert softmax_scale is not None
    assert return_attn_probs
    _check(q, k, v, cu_seqlens_q, cu_seqlens_k)
    queries, keys = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    assert queries[-1] == len(q)
    assert len(queries) == len(keys) > 1
    if block_table is not None:
        _check_pages(k, block_table, len(queries) - 1, max_seqlen_k)
    parts = []
    for row in range(len(queries) - 1):
        length = keys[row + 1] - keys[row]
        assert length <= max_seqlen_k
        assert queries[row + 1] - queries[row] <= max_seqlen_q
        its_k, its_v = (_keys_2(cache, keys[row], length, block_table, row) for cache in (k, v))
        its_q = q[queries[row] : queries[row + 1]]
        parts.append(_attend(its_q, its_k, its_v, scale=softmax_scale, softcap=softcap, causal=causal))
    return (*_collect(q, parts, empty=float("inf")), None)


def _check_pages(cache: Tensor, table: Tensor, rows: int, longest: int) -> None:
    assert cache.ndim == 4
    assert cache.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"
    assert table.dtype == torch.int32
    assert table.stride(-1) == 1
    assert len(table) == rows
    assert table.shape[1] * cache.shape[1] >= longest


def _keys_2(cache: Tensor, first: int, length: int, table: Tensor | None, row: int) -> Tensor:
    """The keys of a row; a page is found by its number and the strides, and read as far as the row goes."""
    if table is None:
        return cache[first : first + length]
    size = cache.shape[1]
    pages = []
    for index, page in enumerate(table[row, : -(-length // size)].tolist()):
        shape = (min(size, length - index * size), *cache.shape[2:])
        pages.append(cache.as_strided(shape, cache.stride()[1:], cache.storage_offset() + page * cache.stride(0)))
    return torch.cat(pages)


def _varlen_4(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    qv: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    min_seqlen_k: int | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    gather_kv_indices: Tensor | None = None,
    page_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int | None, int | None] = (None, None),
    learnable_sink: Tensor | None = None,
    softcap: float = 0.0,
    return_lse: bool = False,
) -> tuple[Tensor, Tensor]:
    assert cu_seqlens_q is not None
    assert cu_seqlens_k is not None
    assert softmax_scale is not None
    assert return_lse
    used = cu_seqlens_k.diff() if seqused_k is None else seqused_k
    _check(q, k, v, cu_seqlens_q, cu_seqlens_k, used)
    assert cu_seqlens_q.shape == cu_seqlens_k.shape == (len(used) + 1,)
    assert max_seqlen_k == int(used.max())
    queries = cu_seqlens_q.tolist()
    parts = []
    for row, (first, length) in enumerate(zip(cu_seqlens_k.tolist(), used.tolist(), strict=False)):
        its_q = q[queries[row] : queries[row + 1]]
        # whole tiles of values are multiplied, by zero behind the end: NaN there would spread
        tiles = v[first : first + -(-length // TILE) * TILE]
        spread = 0 * tiles.float().sum()
        out, lse = _attend(
            its_q,
            k[first : first + length],
            v[first : first + length],
            scale=softmax_scale,
            softcap=softcap,
            causal=causal,
        )
        parts.append((out + spread, lse))
    return _collect(q, parts, empty=float("-inf"))


FLASH_2 = SimpleNamespace(__version__="2.8.3", flash_attn_varlen_func=_varlen_2)
FLASH_4 = SimpleNamespace(flash_attn_varlen_func=_varlen_4)
