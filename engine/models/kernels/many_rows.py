"""What is fused for any number of tokens: the gate's product, and the norms of query and key heads.

OVERLAP is programmatic dependent launch, as in `one_row`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def gated_kernel(out_ptr, gate_up_ptr, inner, COLUMNS: tl.constexpr):
    """out [T, inner] = silu(gate) · up of gate_up [T, 2 · inner]; one token (program 0), COLUMNS of inner (1)."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.program_id(0).to(tl.int64)
    gate_ptr = gate_up_ptr + token * 2 * inner + column
    gate = tl.load(gate_ptr, mask=column < inner, other=0.0).to(tl.float32)
    up = tl.load(gate_ptr + inner, mask=column < inner, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + token * inner + column, result.to(out_ptr.dtype.element_ty), mask=column < inner)


@triton.jit
def norm_heads_kernel(
    q_ptr,
    k_ptr,
    q_norm_ptr,
    k_norm_ptr,
    q_stride,
    k_stride,
    eps,
    Q_HEADS: tl.constexpr,
    K_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """RMSNorm of each head in place; one token (program 0), HEADS of its query and key heads (1), queries first.

    q [T, Q_HEADS, DIM], k [T, K_HEADS, DIM], `stride` elements from token to token; norms [DIM].
    """
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS))[:, None]
    dim = tl.arange(0, BLOCK_D)[None, :]
    is_q = (head < Q_HEADS) & (dim < DIM)
    is_k = (head >= Q_HEADS) & (head < Q_HEADS + K_HEADS) & (dim < DIM)
    q = q_ptr + token * q_stride + head * DIM + dim
    k = k_ptr + token * k_stride + (head - Q_HEADS) * DIM + dim
    values = tl.load(q, mask=is_q, other=0.0).to(tl.float32) + tl.load(k, mask=is_k, other=0.0).to(tl.float32)
    weight = tl.load(q_norm_ptr + dim + head * 0, mask=is_q, other=0.0).to(tl.float32)
    weight += tl.load(k_norm_ptr + dim + head * 0, mask=is_k, other=0.0).to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 1) / DIM + eps)[:, None] * weight
    tl.store(q, normed.to(q_ptr.dtype.element_ty), mask=is_q)
    tl.store(k, normed.to(k_ptr.dtype.element_ty), mask=is_k)
