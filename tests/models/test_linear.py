"""Every way the decoder multiplies against torch's plain `F.linear`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.models.linear import NARROW_ROWS, SPLIT_ELEMENTS, add_linear_, linear

ROWS = [1, 2, 7, NARROW_ROWS, NARROW_ROWS + 1]
DTYPES = [torch.float32, torch.bfloat16]


def operands(rows: int, out: int, dtype: torch.dtype, bias: bool) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(rows * out)
    shapes = ((rows, 48), (out, 48), (out,), (rows, out))
    x, weight, offset, total = (torch.randn(shape, generator=random).to(dtype) for shape in shapes)
    return x, weight, (offset if bias else None), total  # type: ignore[return-value]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out", [1, 96, 401])
@pytest.mark.parametrize("rows", ROWS)
def test_linear_is_f_linear(rows, out, dtype, bias):
    x, weight, offset, total = operands(rows, out, dtype, bias)
    expected = F.linear(x, weight, offset)
    atol, rtol = (1e-5, 1e-5) if dtype == torch.float32 else (0.1, 0.02)
    torch.testing.assert_close(linear(x, weight, offset), expected, atol=atol, rtol=rtol)
    before = total.clone()
    assert add_linear_(total, x, weight, offset) is total
    torch.testing.assert_close(total, before + expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("out", [SPLIT_ELEMENTS // 48 + 1, 16384])
def test_a_large_matrix_times_one_row_is_split_among_threads(out, bias):
    x, weight, offset, _ = operands(1, out, torch.float32, bias)
    assert weight.numel() >= SPLIT_ELEMENTS
    torch.testing.assert_close(linear(x, weight, offset), F.linear(x, weight, offset), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_inputs_may_be_strided(rows):
    x, weight, _, _ = operands(rows, 96, torch.float32, False)
    by_column = x.t().contiguous().t()
    gaps = torch.stack((x, x), -1).flatten(1)[:, ::2]
    for strided in (by_column, gaps):
        torch.testing.assert_close(linear(strided, weight), F.linear(x, weight), atol=1e-5, rtol=1e-5)
