"""The flash backend against plain attention: over a fake of the library, and over the real one where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from engine.attention.base import AttentionBackend, AttentionRow
from engine.attention.by_size import BySize
from engine.attention.flash_api import FlashAPI, FlashAttention2, FlashAttention4, find_flash
from engine.attention.flash_attention import FlashAttention, refusal
from engine.attention.flash_merge import Parts, merge_by_kernel, merge_plain
from engine.attention.flash_plan import PlannedRow, make_plan
from engine.attention.torch_attention import TorchAttention
from engine.kv.pool import KVPool
from engine.kv.virtual_block_table import Placement
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable
from tests.engine.attention_bench import (
    Bench,
    Trial,
    assert_a_step_sees_its_earlier_rows,
    assert_new_kv_is_written,
    assert_read_is_right,
    assert_rows_are_right,
)
from tests.engine.fake_flash import FLASH_2, FLASH_4

VERSIONS = {"2": FlashAttention2(FLASH_2), "4": FlashAttention4(FLASH_4)}
REAL = find_flash() if torch.cuda.is_available() else None


def flash(api: FlashAPI, pool: KVPool, rotary: Sequence[RotaryTable], layers: Sequence[LayerSpec]) -> FlashAttention:
    return FlashAttention(pool, rotary, layers, api=api)


def trial(api: FlashAPI, **more: object) -> Trial:
    """Bench's usual pool, in one of the dtypes that the library takes; float16 is the closer."""
    return Trial(partial(flash, api), torch.float16, **more)  # type: ignore[arg-type]


@pytest.fixture(params=VERSIONS)
def case(request: pytest.FixtureRequest) -> Trial:
    return trial(VERSIONS[request.param])


@pytest.fixture(params=[torch.bfloat16, torch.float16])
def real(request: pytest.FixtureRequest) -> Trial:
    """The library itself, on a model's usual shape."""
    if REAL is None:
        pytest.skip("needs a CUDA device and flash-attn")
    make = partial(flash, REAL)
    return Trial(make, request.param, torch.device("cuda"), heads=12, kv_heads=2, head_dim=128, block_size=64)


@pytest.mark.parametrize("rope", [True, False])
def test_rows_over_moved_segments_with_partly_filled_blocks(case: Trial, rope: bool) -> None:
    assert_rows_are_right(case.layer(rope=rope), case)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sunk", [True, False])
def test_capped_scores_and_sinks_over_moved_segments(case: Trial, softcap: float | None, sunk: bool) -> None:
    assert_rows_are_right(case.layer(softcap=softcap, sinks=case.sinks() if sunk else None), case)


def test_rows_of_one_sequence_see_those_before_them_in_the_same_step(case: Trial) -> None:
    assert_a_step_sees_its_earlier_rows(case.layer(), case)


def test_new_keys_are_written_rotated_where_they_stand(case: Trial) -> None:
    assert_new_kv_is_written(case.layer(), case)


@pytest.mark.parametrize("sunk", [True, False])
def test_what_is_noted_as_read_is_the_attention_paid(case: Trial, sunk: bool) -> None:
    assert_read_is_right(case.layer(sinks=case.sinks() if sunk else None), case)


@pytest.mark.parametrize(("new", "sunk"), [(True, False), (False, True), (True, True)])
def test_the_kernel_that_merges_agrees_with_its_twin(new: bool, sunk: bool) -> None:
    pytest.importorskip("triton", reason="the kernel needs triton")
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = [PlannedRow(0, 2, 19, 0, 0, 0), PlannedRow(2, 1, 0 if new else 1, 38, 0, 0), PlannedRow(3, 3, 2, 39, 0, 0)]
    places = [(row.first_query + token, row.count, row.parts) for row in rows for token in range(row.count)]

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(count, 4, 24, device=device), 5 * torch.randn(4, count, device=device)

    parts = Parts(part(45), part(6) if new else None, torch.randn(4, device=device) if sunk else None)
    expected, expected_lse = merge_plain(parts, rows)
    actual, lse = merge_by_kernel(parts, torch.tensor(places, dtype=torch.int32, device=device), wants_lse=True)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_the_library_itself_over_moved_segments(real: Trial, rope: bool, softcap: float | None) -> None:
    assert_rows_are_right(real.layer(rope=rope, softcap=softcap, sinks=real.sinks()), real)


@pytest.mark.gpu
def test_the_library_itself_writes_and_notes(real: Trial) -> None:
    assert_a_step_sees_its_earlier_rows(real.layer(), real)
    assert_new_kv_is_written(real.layer(), real)
    assert_read_is_right(real.layer(), real)


def test_long_runs_are_parted_for_the_device(case: Trial) -> None:
    wide = replace(case, block_size=512, num_blocks=20)
    bench = Bench(wide.layer(), wide, seed=1)
    earlier = bench.written(700, 5)
    own = bench.written(4, 690, room=3)
    table = bench.table([Placement(earlier.segment, 0, 690, 10)])
    plan = make_plan([AttentionRow(table, own.segment, 3)], wide.block_size, group=3, kv_heads=2, programs=64)
    assert plan.run_lengths.max() <= 256 < max(run.length for run in table.runs)
    q, (k, v) = bench.queries(3), bench.kv(3)
    actual = bench.step([AttentionRow(table, own.segment, 3, pieces=(0, 300))], q, k, v)
    bench.assert_close(actual, bench.expected([earlier.part(10, 690), own], q, k, v))


def test_steps_of_few_and_of_many_tokens_may_have_backends_of_their_own(case: Trial) -> None:
    def make(*given: Any) -> AttentionBackend:
        return BySize(TorchAttention(*given), case.make(*given), many_from=6)

    both = replace(case, make=make)
    assert_rows_are_right(both.layer(), both)
    assert_read_is_right(both.layer(), both)


def pool(head_dim: int = 16, dtype: torch.dtype = torch.bfloat16, num_blocks: int = 80) -> KVPool:
    return KVPool([(2, head_dim)], num_blocks, 8, dtype=dtype, device=torch.device("cpu"))


def layer(head_dim: int = 16, **more: int) -> LayerSpec:
    return LayerSpec(6, 2, head_dim, 0.25, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("api", VERSIONS.values(), ids=VERSIONS)
def test_what_the_library_cannot_do_is_said(api: FlashAPI) -> None:
    assert refusal(api, pool(), [layer()]) is None
    assert "bfloat16" in (refusal(api, pool(dtype=torch.float32), [layer()]) or "")
    assert "bfloat16" in (refusal(api, pool(dtype=torch.float8_e4m3fn), [layer()]) or "")
    assert "512" in (refusal(api, pool(512), [layer(512)]) or "")
    assert "window" in (refusal(api, pool(), [layer(), layer(window=20)]) or "")


def test_flash_attn_2_needs_a_whole_page() -> None:
    small = pool(num_blocks=31)
    assert "256" in (refusal(VERSIONS["2"], small, [layer()]) or "")
    assert refusal(VERSIONS["4"], small, [layer()]) is None
