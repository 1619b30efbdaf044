"""The benchmark of one row's products, on toy shapes with interpreted kernels. What it measures there says nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks.random_model import SHAPES

pytest.importorskip("triton")
from benchmarks.kernels_linear import layer_rows, linear_rows, products, table

CPU = torch.device("cpu")


def test_products_are_the_models():
    sizes = {p.name: (p.outputs, p.inputs) for p in products("qwen2.5-7b", SHAPES["qwen2.5-7b"])}
    assert sizes == {
        "qkv": (4608, 3584),
        "output": (3584, 3584),
        "gate_up": (37888, 3584),
        "down": (3584, 18944),
        "head": (152064, 3584),
    }
    assert products("qwen3-0.6b", SHAPES["qwen3-0.6b"])[1].inputs == 16 * 128


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled, for the GPU, where there is one")
def test_every_product_is_measured_every_way():
    with torch.inference_mode():
        rows, layers = linear_rows(CPU), layer_rows(CPU)
    assert {row.product for row in rows} == {"qkv", "output", "gate_up", "down", "head"}
    assert {row.product for row in layers} == {"layer"}
    for row in (*rows, *layers):
        assert row.bandwidth > 0
    ways = [row.way for row in rows if row.product == "down"]
    assert len(ways) == len(set(ways)) > 2
    assert len(table(rows).splitlines()) == len(rows) + 1
