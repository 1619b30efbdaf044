"""Matrix products of the decoder, in the shape that the device multiplies fastest.

On a CPU in float32, torch hands one row to a routine that uses one thread, and a few rows to one that reads the weights
once per row. The same product asked for differently was two to three times faster on two cores, for 1 to 32 rows:
all of decoding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NARROW_ROWS = 32
# Smaller matrices are multiplied before a second thread has woken up
SPLIT_ELEMENTS = 1 << 19


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, in] · weight [out, in]ᵀ + bias [out]: [T, out], like `F.linear`, but not always contiguous."""
    rows = x.shape[0]
    if rows > NARROW_ROWS or not x.is_cpu or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    if rows > 1:
        product = torch.mm(weight, x.t()).t()
    elif weight.numel() >= SPLIT_ELEMENTS:
        product = _one_row(x, weight)
    else:
        return F.linear(x, weight, bias)
    return product if bias is None else product.add_(bias)


def add_linear_(total: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Add `linear(x, weight, bias)` to total [T, out] in place; returns total."""
    if total.is_cuda and bias is None:
        return total.addmm_(x, weight.t())  # one kernel, and one rounding, less
    return total.add_(linear(x, weight, bias))


def _one_row(x: Tensor, weight: Tensor) -> Tensor:
    """x [1, in] · weightᵀ as a batch of vector-matrix products over slices of rows, so that every thread has some.

    The vector stands on the left: MKL's batch of matrix times column vector is ten times slower on some CPUs.
    """
    rows, columns = weight.shape
    parts = min(rows & -rows, 1 << (2 * torch.get_num_threads()).bit_length())  # a power of two that divides rows
    slices = weight.view(parts, rows // parts, columns).transpose(1, 2)
    return torch.bmm(x.expand(parts, 1, columns), slices).view(1, rows)
