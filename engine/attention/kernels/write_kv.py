"""Rotates new keys to where they stand and writes them and their values into the pool, in one pass."""

from __future__ import annotations

import triton
import triton.language as tl


# steps differ in how many tokens they have, and none should wait for a compiler
@triton.jit(do_not_specialize=["tokens"])
def write_kv_kernel(
    k_ptr,
    v_ptr,
    k_pool_ptr,
    v_pool_ptr,
    k_scale_ptr,
    v_scale_ptr,
    plan_ptr,
    cos_ptr,
    sin_ptr,
    column_ptr,
    sign_ptr,
    partner_ptr,
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    slots,
    columns,
    tokens,
    DIM: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HEADER: tl.constexpr,
    ROTATE: tl.constexpr,
    SCALED: tl.constexpr,
    LARGEST: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """BLOCK_T tokens (program 0) of one KV head (1).

    k, v [T, kv_heads, DIM] with strides; pools [kv_heads, slots, DIM]; if SCALED a token's numbers are divided by a
    scale of their own, float32 [kv_heads, slots], that makes the largest LARGEST, and
    rounded to whole numbers if WHOLE. Negative slots are left out.
    """
    head = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    dim = tl.arange(0, BLOCK_D)
    place = plan_ptr + HEADER + tokens
    position = tl.load(place + token, mask=token < tokens, other=0)
    slot = tl.load(place + tokens + token, mask=token < tokens, other=-1)
    written = slot >= 0
    both = written[:, None] & (dim < DIM)[None, :]
    k_rows = k_ptr + token[:, None].to(tl.int64) * k_token_stride + head * k_head_stride
    v_rows = v_ptr + token[:, None].to(tl.int64) * v_token_stride + head * v_head_stride
    keys = tl.load(k_rows + dim[None, :], mask=both, other=0.0)
    values = tl.load(v_rows + dim[None, :], mask=both, other=0.0)
    if ROTATE:
        partner = tl.load(partner_ptr + dim, mask=dim < DIM, other=0)
        column = tl.load(column_ptr + dim, mask=dim < DIM, other=0)
        sign = tl.load(sign_ptr + dim, mask=dim < DIM, other=0.0)
        partners = tl.load(k_rows + partner[None, :], mask=both, other=0.0)
        angles = position[:, None] * columns + column[None, :]
        cos = tl.load(cos_ptr + angles, mask=both, other=0.0)
        sin = tl.load(sin_ptr + angles, mask=both, other=0.0)
        keys = (keys.to(tl.float32) * cos + partners.to(tl.float32) * sin * sign[None, :]).to(keys.dtype)
    rows = head.to(tl.int64) * slots + slot
    if SCALED:
        k_scale = tl.maximum(tl.max(tl.abs(keys.to(tl.float32)), 1) / LARGEST, 1e-12)
        v_scale = tl.maximum(tl.max(tl.abs(values.to(tl.float32)), 1) / LARGEST, 1e-12)
        tl.store(k_scale_ptr + rows, k_scale, mask=written)
        tl.store(v_scale_ptr + rows, v_scale, mask=written)
        keys = keys.to(tl.float32) / k_scale[:, None]
        values = values.to(tl.float32) / v_scale[:, None]
    if WHOLE:
        keys = tl.floor(keys + 0.5)
        values = tl.floor(values + 0.5)
    places = rows[:, None] * DIM + dim[None, :]
    tl.store(k_pool_ptr + places, keys.to(k_pool_ptr.dtype.element_ty), mask=both)
    tl.store(v_pool_ptr + places, values.to(v_pool_ptr.dtype.element_ty), mask=both)
