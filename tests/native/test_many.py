"""Attention of many queries in C against its definition, and the torch backend with it against plain attention."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from engine.attention.dense import _attend_plain
from engine.attention.torch_attention import TorchAttention
from engine.native.library import load_library
from engine.native.many import ManyAttention, Seen, find_many, make_many
from tests.engine.attention_bench import (
    Trial,
    assert_a_step_sees_its_earlier_rows,
    assert_read_is_right,
    assert_rows_are_right,
)

RUNS = [(1,), (64,), (63, 2), (300, 1, 129)]


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def many(request: pytest.FixtureRequest) -> ManyAttention:
    library = load_library()
    found = make_many(library, request.param) if library and torch.cpu._is_avx512_bf16_supported() else None
    if found is None:
        pytest.skip("needs AVX-512 BF16, and a library that was built for it")
    return found


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens"), [(6, 2, 100), (7, 1, 17), (4, 4, 250)])
def test_it_agrees_with_the_definition(
    many: ManyAttention, runs: tuple[int, ...], head_dim: int, heads: int, kv_heads: int, tokens: int
) -> None:
    """Each run is read by queries of its own, and what lies around the runs is no number."""
    torch.manual_seed(sum(runs))
    pool = torch.full((2, kv_heads, 700, head_dim), float("nan"), dtype=torch.bfloat16)
    seen, slot = [], 5
    for length in runs:
        pool[:, :, slot : slot + length] = torch.randn(2, kv_heads, length, head_dim)
        k, v = pool[:, :, slot : slot + length]
        seen.append(Seen(k, v, torch.randn(heads, tokens, head_dim).bfloat16()))
        slot += length + 40
    output, lse = many.attend(seen, head_dim**-0.5)
    expected, expected_lse = _expected(seen, head_dim**-0.5)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output, expected, atol=1e-2, rtol=1e-2)


def _expected(seen: list[Seen], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The parts by plain attention, merged."""
    parts = [
        _attend_plain(one.queries.float(), one.keys, one.values, scale=scale, causal=False, allowed=None)
        for one in seen
    ]
    lses = torch.stack([lse for _, lse in parts])
    weights = lses.softmax(0)[..., None]
    return (torch.stack([output for output, _ in parts]) * weights).sum(0), lses.logsumexp(0)


@pytest.mark.parametrize("window", [None, 20, 64])
@pytest.mark.parametrize("rope", [True, False])
def test_the_torch_backend_is_right_with_it(many: ManyAttention, window: int | None, rope: bool) -> None:
    trial = Trial(partial(TorchAttention, many=many), torch.bfloat16, head_dim=64, seeds=8)
    spec = trial.layer(window=window, rope=rope)
    assert_rows_are_right(spec, trial)
    assert_read_is_right(spec, trial)
    assert_a_step_sees_its_earlier_rows(spec, trial)


def test_it_is_for_bfloat16_and_some_heads_alone() -> None:
    assert find_many(torch.float32, {64}) is None
    assert find_many(torch.bfloat16, {64, 80}) is None
