"""Products of one token's row with a matrix: what decoding one answer waits for. They read each weight once.

A program multiplies ROWS rows of the matrix, COLUMNS at a time. It asks for the next tile before it multiplies the one
it has, and for the first before it waits for the kernel ahead, whose result is x: weights never depend on a kernel, so
with programmatic dependent launch (OVERLAP, from compute capability 9 on) memory stays busy from kernel to kernel.
All sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def linear_kernel(
    out_ptr,
    x_ptr,
    weight_ptr,
    stride,
    outputs,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """out [outputs] = weight · x. x [INPUTS]; weight [outputs, INPUTS], `stride` elements from row to row."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = _dot(x_ptr, None, weight_ptr, row, row < outputs, stride, 0.0, INPUTS, COLUMNS, OVERLAP)
    tl.store(out_ptr + row, total.to(out_ptr.dtype.element_ty), mask=row < outputs)


@triton.jit
def add_linear_kernel(
    total_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    stride,
    outputs,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """total [outputs] += weight · x + bias, which may be None. Tensors as in `linear_kernel`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = _dot(x_ptr, None, weight_ptr, row, row < outputs, stride, 0.0, INPUTS, COLUMNS, OVERLAP)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + row, mask=row < outputs, other=0.0).to(tl.float32)
    total += tl.load(total_ptr + row, mask=row < outputs, other=0.0).to(tl.float32)
    tl.store(total_ptr + row, total.to(total_ptr.dtype.element_ty), mask=row < outputs)


@triton.jit
def norm_linear_kernel(
    out_ptr,
    x_ptr,
    norm_ptr,
    weight_ptr,
    bias_ptr,
    stride,
    outputs,
    eps,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """out [outputs] = weight · RMSNorm(x) + bias, which may be None. norm [INPUTS]; the rest as in `linear_kernel`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = _dot(x_ptr, norm_ptr, weight_ptr, row, row < outputs, stride, eps, INPUTS, COLUMNS, OVERLAP)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + row, mask=row < outputs, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, total.to(out_ptr.dtype.element_ty), mask=row < outputs)


@triton.jit
def norm_gated_kernel(
    out_ptr,
    x_ptr,
    norm_ptr,
    weight_ptr,
    bias_ptr,
    stride,
    outputs,
    eps,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """out [outputs] = silu(gate) · up. weight [2 · outputs, INPUTS] and bias hold gate's rows, then up's.

    A program computes ROWS rows of gate and the same of up, one by one in turn.
    """
    pair = tl.arange(0, 2 * ROWS)
    place = tl.program_id(0) * ROWS + pair // 2
    row = place + (pair % 2) * outputs
    both = _dot(x_ptr, norm_ptr, weight_ptr, row, place < outputs, stride, eps, INPUTS, COLUMNS, OVERLAP)
    if bias_ptr is not None:
        both += tl.load(bias_ptr + row, mask=place < outputs, other=0.0).to(tl.float32)
    gate, up = tl.split(tl.reshape(both, (ROWS, 2)))
    result = gate / (1.0 + tl.exp(-gate)) * up
    number = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tl.store(out_ptr + number, result.to(out_ptr.dtype.element_ty), mask=number < outputs)


@triton.jit
def _dot(
    x_ptr,
    norm_ptr,
    weight_ptr,
    row,
    there,
    stride,
    eps,
    INPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Products of the matrix's rows with x, or with RMSNorm(x) if there is a norm, float32; 0 for rows not `there`.

    The norm's 1/√(mean x² + ε) is a factor of the whole product, so x is read but once.
    """
    number = tl.arange(0, COLUMNS)
    row_ptr = weight_ptr + row.to(tl.int64)[:, None] * stride
    tile = _tile(row_ptr, there, number, INPUTS)
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()
    products = tl.zeros((row.shape[0], COLUMNS), tl.float32)
    squares = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, INPUTS, COLUMNS):
        column = start + number
        following = _tile(row_ptr, there, column + COLUMNS, INPUTS)
        value = tl.load(x_ptr + column, mask=column < INPUTS, other=0.0).to(tl.float32)
        if norm_ptr is not None:
            squares += value * value
            value *= tl.load(norm_ptr + column, mask=column < INPUTS, other=0.0).to(tl.float32)
        products += tile.to(tl.float32) * value[None, :]
        tile = following
    total = tl.sum(products, 1)
    if norm_ptr is not None:
        total *= tl.rsqrt(tl.sum(squares, 0) / INPUTS + eps)
    return total


@triton.jit
def _tile(row_ptr, there, column, INPUTS: tl.constexpr):
    """The rows' elements in these columns; nothing is read beyond INPUTS."""
    wanted = there[:, None] & (column < INPUTS)[None, :]
    return tl.load(row_ptr + column[None, :], mask=wanted, other=0.0, eviction_policy="evict_first")
