"""Merges what a token's queries found in their runs, and what it found among the new tokens, by natural log-sum-exp."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def merge_rows_kernel(
    run_out_ptr,
    run_lse_ptr,
    new_out_ptr,
    new_lse_ptr,
    sink_ptr,
    out_ptr,
    lse_ptr,
    parts_ptr,
    queries,
    tokens,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    NEW: tl.constexpr,
    SINKS: tl.constexpr,
    LSE: tl.constexpr,
):
    """One token (program 0), one head (1); each sees a key somewhere.

    run_out [queries, HEADS, DIM] and run_lse float32 [HEADS, queries], where parts int32 [tokens, 3] says; new_out and
    out [tokens, HEADS, DIM]; new_lse and lse float32 [HEADS, tokens]; sink float32 [HEADS].
    """
    token = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(parts_ptr + token * 3)
    stride = tl.load(parts_ptr + token * 3 + 1)
    number = tl.load(parts_ptr + token * 3 + 2)
    dim = tl.arange(0, BLOCK_D)
    part = tl.arange(0, BLOCK_P)
    row = token.to(tl.int64) * HEADS + head
    top = -float("inf")
    total = 0.0
    mixed = tl.zeros([BLOCK_D], tl.float32)
    if NEW:
        top = tl.load(new_lse_ptr + head * tokens + token)
        total = 1.0
        mixed = tl.load(new_out_ptr + row * DIM + dim, mask=dim < DIM, other=0.0).to(tl.float32)
    if SINKS:
        sink = tl.load(sink_ptr + head)
        highest = tl.maximum(top, sink)
        fading = tl.exp(top - highest)
        mixed = mixed * fading
        total = total * fading + tl.exp(sink - highest)
        top = highest
    for begin in range(0, number, BLOCK_P):
        there = begin + part < number
        query = (first + (begin + part) * stride).to(tl.int64)
        lse = tl.load(run_lse_ptr + head.to(tl.int64) * queries + query, mask=there, other=-float("inf"))
        highest = tl.maximum(top, tl.max(lse, 0))
        weights = tl.exp(lse - highest)
        fading = tl.exp(top - highest)
        at = (query * HEADS + head)[:, None] * DIM + dim[None, :]
        found = tl.load(run_out_ptr + at, mask=there[:, None] & (dim < DIM)[None, :], other=0.0).to(tl.float32)
        mixed = mixed * fading + tl.sum(found * weights[:, None], 0)
        total = total * fading + tl.sum(weights, 0)
        top = highest
    tl.store(out_ptr + row * DIM + dim, (mixed / total).to(out_ptr.dtype.element_ty), mask=dim < DIM)
    if LSE:
        tl.store(lse_ptr + head * tokens + token, top + tl.log(total))
