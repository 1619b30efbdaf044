"""Puts together what several programs found of a token's keys, and adds up what its pieces were paid.

With m = max LSEᵢ a token's output is Σ 2^(LSEᵢ−m)·Oᵢ / Σ 2^(LSEᵢ−m) (FlashDecoding's merge).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def merge_kernel(
    part_ptr,
    part_lse_ptr,
    out_ptr,
    lse_ptr,
    plan_ptr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KIND_AT: tl.constexpr,
    READ: tl.constexpr,
):
    """One merge of the plan (program 0), one head (1), BLOCK_D of its dims (2); tensors are `attend_kernel`'s."""
    if tl.program_id(0) >= tl.load(plan_ptr + KIND_AT + 3):
        return
    record = plan_ptr + tl.load(plan_ptr + KIND_AT + 2) + tl.program_id(0) * 4
    token = tl.load(record)
    part = tl.load(record + 1)
    stride = tl.load(record + 2)
    parts = tl.load(record + 3)
    head = tl.program_id(1)
    dim = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    number = tl.arange(0, BLOCK_P)
    top = -float("inf")
    total = 0.0
    mixed = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, parts, BLOCK_P):
        there = first + number < parts
        rows = (part + (first + number) * stride).to(tl.int64) * HEADS + head
        lse = tl.load(part_lse_ptr + rows, mask=there, other=float("-inf"))
        highest = tl.maximum(top, tl.max(lse, 0))
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(lse - base)
        fading = tl.exp2(top - base)
        found = tl.load(
            part_ptr + rows[:, None] * DIM + dim[None, :], mask=there[:, None] & (dim < DIM)[None, :], other=0.0
        )
        mixed = mixed * fading + tl.sum(found * weights[:, None], 0)
        total = total * fading + tl.sum(weights, 0)
        top = highest
    row = token.to(tl.int64) * HEADS + head
    mixed = mixed / tl.where(total > 0.0, total, 1.0)
    tl.store(out_ptr + row * DIM + dim, mixed.to(out_ptr.dtype.element_ty), mask=dim < DIM)
    if READ:
        if tl.program_id(2) == 0:
            tl.store(lse_ptr + row, tl.where(total > 0.0, top + tl.log2(total), float("-inf")))


@triton.jit
def shares_kernel(
    read_ptr,
    lse_ptr,
    share_ptr,
    plan_ptr,
    HEADS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    NOTES_AT: tl.constexpr,
):
    """One note of the plan (program 0): BLOCK_T tokens' (1) shares of attention, mean over heads, added to `share`.

    read float32 [read_slots, HEADS], lse float32 [T, HEADS], share float32 [shares].
    """
    record = plan_ptr + tl.load(plan_ptr + NOTES_AT) + tl.program_id(0) * 4
    count = tl.load(record + 3)
    within = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    token = tl.load(record + 2) + within
    head = tl.arange(0, BLOCK_H)
    there = within < count
    both = there[:, None] & (head < HEADS)[None, :]
    paid = tl.load(
        read_ptr + (tl.load(record) + token)[:, None] * HEADS + head[None, :], mask=both, other=float("-inf")
    )
    lse = tl.load(lse_ptr + token[:, None] * HEADS + head[None, :], mask=both, other=0.0)
    share = tl.sum(tl.exp2(paid - lse), 1) / HEADS
    tl.atomic_add(share_ptr + tl.load(record + 1) + token, share, mask=there)
