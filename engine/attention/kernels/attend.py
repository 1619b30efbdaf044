"""Attention of tiles of queries over the keys of a virtual block table: decode and prefill in one kernel.

A tile's queries are rotated back once for each run of keys that moved by another Δ, always from the originals, and
multiplied with the keys as they lie in the pool. Logarithms are to base 2. After FlashAttention-2 (arXiv 2307.08691),
with its split of the keys among programs (FlashDecoding).
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _visit(
    turned,
    asked,
    top,
    total,
    mixed,
    k_tiles,
    v_tiles,
    k_scales,
    v_scales,
    row,
    start,
    end,
    scale,
    softcap,
    DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SCALED: tl.constexpr,
    COPIED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The online softmax over BLOCK_N more keys, that of `row` in the pool standing at `start`.

    Unless MASKED every query sees them all; else those that stand before `end`, and not behind the query.
    """
    key = tl.arange(0, BLOCK_N)
    dim = tl.arange(0, BLOCK_D)
    loaded = (dim < DIM)[None, :]
    if MASKED:
        there = start + key < end
        loaded = loaded & there[:, None]
    if COPIED:
        keys = k_tiles.load([row, 0])
        values = v_tiles.load([row, 0])
    else:
        places = (row.to(tl.int64) + key)[:, None] * DIM + dim[None, :]
        keys = tl.load(k_tiles + places, mask=loaded, other=0.0)
        values = tl.load(v_tiles + places, mask=loaded, other=0.0)
    scores = tl.dot(turned, tl.trans(keys.to(turned.dtype)), input_precision="ieee")
    if SCALED:
        k_scale = tl.load(k_scales + row + key, mask=start + key < end, other=0.0)
        scores *= k_scale[None, :]
    to_log2 = scale * LOG2E
    if SOFTCAP:
        scores = softcap * (2.0 * tl.sigmoid(2.0 * scale / softcap * scores) - 1.0)
        to_log2 = LOG2E
    if MASKED:
        behind = asked[:, None] - (start + key)[None, :]
        seen = there[None, :] & (behind >= 0)
        if WINDOW > 0:
            seen = seen & (behind < WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
    highest = tl.maximum(top, tl.max(scores, 1) * to_log2)
    base = highest
    if MASKED:
        base = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(scores * to_log2 - base[:, None])  # one instruction, that multiplies and adds
    fading = tl.exp2(top - base)
    total = total * fading + tl.sum(weights, 1)
    if SCALED:
        v_scale = tl.load(v_scales + row + key, mask=start + key < end, other=0.0)
        weights *= v_scale[None, :]
    mixed = tl.dot(weights.to(turned.dtype), values.to(turned.dtype), mixed * fading[:, None], input_precision="ieee")
    return highest, total, mixed


@triton.jit
def attend_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    k_scale_ptr,
    v_scale_ptr,
    out_ptr,
    lse_ptr,
    part_ptr,
    part_lse_ptr,
    read_ptr,
    plan_ptr,
    cos_ptr,
    sin_ptr,
    column_ptr,
    sign_ptr,
    partner_ptr,
    sink_ptr,
    q_token_stride,
    q_head_stride,
    slots,
    scale,
    softcap,
    columns,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KIND_AT: tl.constexpr,
    SPANS_AT: tl.constexpr,
    UNREAD: tl.constexpr,
    WINDOW: tl.constexpr,
    ROTATE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
    READ: tl.constexpr,
    SCALED: tl.constexpr,
    COPIED: tl.constexpr,
    MASKED_STAGES: tl.constexpr,
):
    """One work of the plan (program 0) for one KV head (program 1).

    q [T, HEADS, DIM] with strides; k, v [kv_heads, slots, DIM], if COPIED as descriptors of tiles [BLOCK_N, DIM] of
    [kv_heads · slots, DIM], and then without NaN anywhere; their scales float32 [kv_heads, slots] if SCALED;
    out [T, HEADS, DIM], lse float32 [T, HEADS]; part float32 [parts, HEADS, DIM], part_lse [parts, HEADS]; read float32
    [read_slots, HEADS]; cos, sin float32 [positions, columns]; column, partner int32 [DIM], sign float32 [DIM]; sink
    float32 [HEADS]. A key at p is seen by a query at q if 0 ≤ q − p, and q − p < WINDOW unless that is 0.
    """
    if tl.program_id(0) >= tl.load(plan_ptr + KIND_AT + 1):
        return
    work = plan_ptr + tl.load(plan_ptr + KIND_AT) + tl.program_id(0) * 9
    kv_head = tl.program_id(1)
    token = tl.load(work)
    count = tl.load(work + 1)
    position = tl.load(work + 2)
    first_span = tl.load(work + 3)
    end_span = tl.load(work + 4)
    low = tl.load(work + 5)
    high = tl.load(work + 6)
    part = tl.load(work + 7)

    row = tl.arange(0, BLOCK_M)
    within = row // GROUP
    head = kv_head * GROUP + row % GROUP
    alive = within < count
    asked = position + within
    dim = tl.arange(0, BLOCK_D)
    in_head = dim < DIM
    inside = alive[:, None] & in_head[None, :]
    q_rows = q_ptr + (token + within)[:, None].to(tl.int64) * q_token_stride + head[:, None] * q_head_stride
    queries = tl.load(q_rows + dim[None, :], mask=inside, other=0.0)
    turned = queries
    if ROTATE:
        partner = tl.load(partner_ptr + dim, mask=in_head, other=0)
        partners = tl.load(q_rows + partner[None, :], mask=inside, other=0.0)
        column = tl.load(column_ptr + dim, mask=in_head, other=0)
        sign = tl.load(sign_ptr + dim, mask=in_head, other=0.0)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if SINKS:
        if tl.load(work + 8) != 0:
            top = tl.load(sink_ptr + head, mask=alive, other=0.0) * LOG2E
            total += 1.0
    mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first_slot = kv_head * slots
    spans = plan_ptr + tl.load(plan_ptr + SPANS_AT)
    turned_by = -2147483648
    for index in range(first_span, end_span):
        span = spans + index * 5
        start = tl.load(span + 1)
        # of the pool as one list of all heads' slots, the row of a key that stands at 0
        origin = first_slot + tl.load(span) - start
        begin = tl.maximum(start, low)
        end = tl.minimum(tl.load(span + 2), high)
        delta = tl.load(span + 3)
        if ROTATE:
            if delta != turned_by:
                at = tl.where(alive, asked - delta, 0)
                angles = at[:, None] * columns + column[None, :]
                cos = tl.load(cos_ptr + angles, mask=inside, other=0.0)
                sin = tl.load(sin_ptr + angles, mask=inside, other=0.0) * sign[None, :]
                turned = (queries.to(tl.float32) * cos + partners.to(tl.float32) * sin).to(queries.dtype)
                turned_by = delta
        top_before = top
        total_before = total
        seen_by_all = begin
        if WINDOW == 0:
            seen_by_all = begin + tl.maximum(tl.minimum(end, position + 1) - begin, 0) // BLOCK_N * BLOCK_N
            for stands in range(begin, seen_by_all, BLOCK_N):
                top, total, mixed = _visit(
                    turned, asked, top, total, mixed, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, origin + stands, stands,
                    end, scale, softcap, DIM, BLOCK_N, BLOCK_D, 0, SOFTCAP, SCALED, COPIED, False,
                )  # fmt: skip
        for stands in tl.range(seen_by_all, end, BLOCK_N, num_stages=MASKED_STAGES):
            top, total, mixed = _visit(
                turned, asked, top, total, mixed, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, origin + stands, stands,
                end, scale, softcap, DIM, BLOCK_N, BLOCK_D, WINDOW, SOFTCAP, SCALED, COPIED, True,
            )  # fmt: skip
        if READ:
            read = tl.load(span + 4)
            if read > UNREAD:
                base = tl.where(top == float("-inf"), 0.0, top)
                paid = base + tl.log2(tl.maximum(total - total_before * tl.exp2(top_before - base), 0.0))
                tl.store(read_ptr + (read + token + within) * HEADS + head, paid, mask=alive)

    lse = tl.where(total > 0.0, top + tl.log2(total), float("-inf"))
    mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
    if part < 0:
        rows = (token + within).to(tl.int64) * HEADS + head
        tl.store(out_ptr + rows[:, None] * DIM + dim[None, :], mixed.to(out_ptr.dtype.element_ty), mask=inside)
        if READ:
            tl.store(lse_ptr + rows, lse, mask=alive)
    else:
        rows = (part + within).to(tl.int64) * HEADS + head
        tl.store(part_ptr + rows[:, None] * DIM + dim[None, :], mixed, mask=inside)
        tl.store(part_lse_ptr + rows, lse, mask=alive)
