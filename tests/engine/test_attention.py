"""The torch backend against plain attention, and the kernels under it against their definition."""

from __future__ import annotations

import pytest
import torch

from engine.attention.dense import _ROWS_PER_THREAD, _attend_plain, attend, merge
from engine.attention.torch_attention import TorchAttention
from tests.engine.attention_bench import (
    Trial,
    assert_a_step_sees_its_earlier_rows,
    assert_new_kv_is_written,
    assert_read_is_right,
    assert_read_of_a_steps_earlier_rows_is_right,
    assert_rows_are_right,
)

TRIAL = Trial(TorchAttention)
HEADS, KV_HEADS, DIM = TRIAL.heads, TRIAL.kv_heads, TRIAL.head_dim
SCALE = DIM**-0.5


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("window", [None, 3, 20, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_over_moved_segments_with_partly_filled_blocks(rope: bool, window: int | None, dtype: torch.dtype) -> None:
    assert_rows_are_right(TRIAL.layer(rope=rope, window=window), Trial(TorchAttention, dtype))


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sunk", [True, False])
def test_capped_scores_and_sinks_over_moved_segments(window: int | None, softcap: float | None, sunk: bool) -> None:
    sinks = TRIAL.sinks() if sunk else None
    assert_rows_are_right(TRIAL.layer(window=window, softcap=softcap, sinks=sinks), TRIAL)


@pytest.mark.parametrize("window", [None, 9])
def test_rows_of_one_sequence_see_those_before_them_in_the_same_step(window: int | None) -> None:
    assert_a_step_sees_its_earlier_rows(TRIAL.layer(window=window), TRIAL)


def test_new_keys_are_written_rotated_where_they_stand() -> None:
    assert_new_kv_is_written(TRIAL.layer(), TRIAL)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("sunk", [True, False])
def test_what_is_noted_as_read_is_the_attention_paid(window: int | None, sunk: bool) -> None:
    assert_read_is_right(TRIAL.layer(window=window, sinks=TRIAL.sinks() if sunk else None), TRIAL)


@pytest.mark.parametrize("window", [None, 9])
def test_what_is_noted_as_read_of_rows_before_in_the_same_step_is_right(window: int | None) -> None:
    assert_read_of_a_steps_earlier_rows_is_right(TRIAL.layer(window=window), TRIAL)


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, False), (False, True)])
def test_the_cpu_kernel_agrees_with_the_definition(causal: bool, masked: bool) -> None:
    torch.manual_seed(0)
    n, m = 9, 9 if causal else 21
    q, k, v = torch.randn(HEADS, n, DIM), torch.randn(KV_HEADS, m, DIM), torch.randn(KV_HEADS, m, DIM)
    allowed = torch.rand(n, m) < 0.5 if masked else None
    if allowed is not None:
        allowed[4] = False  # a query that sees nothing
    output, lse = attend(q, k, v, scale=SCALE, causal=causal, allowed=allowed)
    plain_output, plain_lse = _attend_plain(q, k, v, scale=SCALE, causal=causal, allowed=allowed)
    torch.testing.assert_close(lse, plain_lse)
    sees = torch.isfinite(lse)
    torch.testing.assert_close(output[sees], plain_output[sees])


def test_queries_that_share_a_kv_head_are_as_well_attended_to_as_one() -> None:
    torch.manual_seed(2)
    n = -(-_ROWS_PER_THREAD * torch.get_num_threads() // HEADS)
    keys = torch.randn(2, KV_HEADS, 50, DIM)
    q, (k, v) = torch.randn(n, HEADS, DIM).transpose(0, 1), keys[:, :, 8:29]
    output, lse = attend(q, k, v, scale=SCALE)
    plain_output, plain_lse = _attend_plain(q, k, v, scale=SCALE, causal=False, allowed=None)
    torch.testing.assert_close(lse, plain_lse)
    torch.testing.assert_close(output, plain_output)


def test_merge_of_parts_is_attention_over_all_of_them() -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(HEADS, 4, DIM), torch.randn(KV_HEADS, 30, DIM) * 5, torch.randn(KV_HEADS, 30, DIM)
    whole, _ = attend(q, k, v, scale=SCALE)
    parts = [attend(q, k[:, a:b], v[:, a:b], scale=SCALE) for a, b in ((0, 1), (1, 18), (18, 30))]
    nothing = (torch.zeros_like(whole), torch.full(whole.shape[:2], float("-inf")))
    torch.testing.assert_close(merge([*parts, nothing]), whole)
