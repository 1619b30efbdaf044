"""The torch backend against ten lines of plain attention over keys that are really rotated to where they stand."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.attention.base import AttentionRow
from engine.attention.dense import _attend_plain, attend, merge
from engine.attention.torch_attention import TorchAttention
from engine.hashing import token_array
from engine.kv.block_manager import BlockManager
from engine.kv.pool import KVPool
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.models.language_model import LayerSpec
from engine.models.rotary import RopeFrequencies, RotaryTable

HEADS, KV_HEADS, DIM, BLOCK_SIZE = 6, 2, 16, 8
SCALE = DIM**-0.5
CPU = torch.device("cpu")
ROTARY = RotaryTable.of(RopeFrequencies(tuple(0.7**i for i in range(DIM // 2)), 1.0), 2000, CPU)


def layer_spec(rope: bool, window: int | None, **more: Any) -> LayerSpec:
    return LayerSpec(KV_HEADS, DIM, SCALE, rotary=0 if rope else None, window=window, **more)


@dataclass
class Written:
    """A segment with the unrotated keys and the values that are in it."""

    segment: Segment
    keys: Tensor
    values: Tensor

    def part(self, offset: int, length: int) -> Written:
        """Some of its tokens."""
        tokens = slice(offset, offset + length)
        return Written(self.segment, self.keys[tokens], self.values[tokens])


class Bench:
    """A pool whose free blocks are scattered, and a backend over it."""

    def __init__(self, spec: LayerSpec, dtype: torch.dtype, seed: int) -> None:
        torch.manual_seed(seed)
        self.random = random.Random(seed)
        self.spec, self.dtype = spec, dtype
        self.pool = KVPool([(KV_HEADS, DIM)], 80, BLOCK_SIZE, dtype=dtype, device=CPU)
        for cache in (*self.pool.keys, *self.pool.values):
            cache.fill_(float("nan"))  # reading a slot that was never written shows
        self.blocks = BlockManager(80)
        for block in self.blocks.allocate(80):
            if self.random.random() < 0.7:
                self.blocks.release([block])
        self.backend = TorchAttention(self.pool, [ROTARY], [spec])

    def kv(self, count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, KV_HEADS, DIM, dtype=self.dtype), torch.randn(count, KV_HEADS, DIM, dtype=self.dtype)

    def segment(self, length: int, start: int, filled: int) -> Segment:
        blocks = self.blocks.allocate(-(-length // BLOCK_SIZE))
        return Segment(b"", token_array(range(length)), start, blocks, filled)

    def written(self, length: int, start: int, room: int = 0) -> Written:
        """A segment computed at `start`, with room for more tokens."""
        segment = self.segment(length + room, start, length)
        keys, values = self.kv(length)
        positions = torch.arange(start, start + length)
        slots = torch.tensor(segment.slots(0, length, BLOCK_SIZE), dtype=torch.int64)
        self.pool.write(0, slots, ROTARY.rotate(keys, positions) if self.spec.rotary is not None else keys, values)
        return Written(segment, keys, values)

    def expected(self, earlier: list[Written], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q over all keys, each rotated to where it stands now, in float32."""
        keys = torch.cat([*(part.keys for part in earlier), k]).float()
        values = torch.cat([*(part.values for part in earlier), v]).float()
        seen, asked = torch.arange(len(keys)), torch.arange(len(keys) - len(q), len(keys))
        if self.spec.rotary is not None:
            keys, q = ROTARY.rotate(keys, seen), ROTARY.rotate(q.float(), asked)
        behind = asked[:, None] - seen
        mask = (behind >= 0) & (behind < (self.spec.window or len(keys)))
        k, v = (tensor.repeat_interleave(HEADS // KV_HEADS, 1).transpose(0, 1) for tensor in (keys, values))
        scores = q.float().transpose(0, 1) @ k.transpose(1, 2) * SCALE
        if (cap := self.spec.softcap) is not None:
            scores = torch.tanh(scores / cap) * cap
        scores = scores.masked_fill(~mask, float("-inf"))
        if (sinks := self.spec.sinks) is not None:
            scores = torch.cat((scores, sinks[:, None, None].expand(-1, len(q), 1)), -1)
            v = torch.cat((v, torch.zeros_like(v[:, :1])), 1)
        mixed: Tensor = scores.softmax(-1) @ v
        return mixed.transpose(0, 1)


@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("window", [None, 3, 20, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_over_moved_segments_with_partly_filled_blocks(rope: bool, window: int | None, dtype: torch.dtype) -> None:
    assert_rows_are_right(layer_spec(rope, window), dtype)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sunk", [True, False])
def test_capped_scores_and_sinks_over_moved_segments(window: int | None, softcap: float | None, sunk: bool) -> None:
    sinks = torch.linspace(-2, 3, HEADS) if sunk else None
    assert_rows_are_right(layer_spec(True, window, softcap=softcap, sinks=sinks), torch.float32)


def assert_rows_are_right(spec: LayerSpec, dtype: torch.dtype) -> None:
    for seed in range(8):
        bench = Bench(spec, dtype, seed)
        rows, expected, inputs = [], [], []
        for _ in range(bench.random.randint(1, 3)):
            earlier = [
                bench.written(bench.random.randint(1, 30), bench.random.randint(0, 200))
                for _ in range(bench.random.randint(0, 4))
            ]
            placements, position = [], 0
            for index, part in enumerate(earlier):
                offset = bench.random.choice([0, bench.random.randrange(part.segment.filled)])
                length = bench.random.randint(1, part.segment.filled - offset)
                placements.append(Placement(part.segment, position, length, offset))
                earlier[index] = part.part(offset, length)
                position += length
            count = bench.random.choice([1, 1, 5, 40])
            own = bench.written(bench.random.choice([0, 3, 17]), position, room=count)
            q = torch.randn(count, HEADS, DIM, dtype=dtype)
            k, v = bench.kv(count)
            rows.append(AttentionRow(VirtualBlockTable.build(placements, BLOCK_SIZE), own.segment, count))
            inputs.append((q, k, v))
            expected.append(bench.expected([*earlier, own], q, k, v))
        bench.backend.plan(rows)
        actual = bench.backend(0, *(torch.cat(tensors) for tensors in zip(*inputs, strict=True)))
        assert actual.dtype == dtype
        tolerance = 1e-5 if dtype is torch.float32 else 4e-2
        torch.testing.assert_close(actual.float(), torch.cat(expected), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("window", [None, 9])
def test_rows_of_one_sequence_see_those_before_them_in_the_same_step(window: int | None) -> None:
    bench = Bench(layer_spec(True, window), torch.float32, seed=5)
    earlier = bench.written(13, 4)
    table = VirtualBlockTable.build([Placement(earlier.segment, 0, 9, 4)], BLOCK_SIZE)
    rows, kv = [], [earlier.part(4, 9)]
    q = torch.randn(3 + 11 + 2, HEADS, DIM)
    k, v = bench.kv(len(q))
    for first, count in ((0, 3), (3, 11), (14, 2)):
        segment = bench.segment(count, table.tokens, 0)
        rows.append(AttentionRow(table, segment, count))
        table = table.then(Placement(segment, table.tokens, count))
        kv.append(Written(segment, k[first : first + count], v[first : first + count]))
    bench.backend.plan(rows)
    expected = bench.expected(kv[:1], q, k, v)
    torch.testing.assert_close(bench.backend(0, q, k.clone(), v), expected, atol=1e-5, rtol=1e-5)


def test_new_keys_are_written_rotated_where_they_stand() -> None:
    bench = Bench(layer_spec(True, None), torch.float32, seed=3)
    earlier = bench.written(5, 0)
    own = bench.segment(10, 5, 0)
    table = VirtualBlockTable.build([Placement(earlier.segment, 0, 5)], BLOCK_SIZE)
    before = bench.pool.tokens_written
    bench.backend.plan([AttentionRow(table, own, 10)])
    k, v = bench.kv(10)
    bench.backend(0, torch.randn(10, HEADS, DIM), k.clone(), v)
    slots = own.slots(0, 10, BLOCK_SIZE)
    torch.testing.assert_close(bench.pool.keys[0][:, slots].transpose(0, 1), ROTARY.rotate(k, torch.arange(5, 15)))
    torch.testing.assert_close(bench.pool.values[0][:, slots].transpose(0, 1), v)
    assert bench.pool.tokens_written == before + 10


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


def test_merge_of_parts_is_attention_over_all_of_them() -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(HEADS, 4, DIM), torch.randn(KV_HEADS, 30, DIM) * 5, torch.randn(KV_HEADS, 30, DIM)
    whole, _ = attend(q, k, v, scale=SCALE)
    parts = [attend(q, k[:, a:b], v[:, a:b], scale=SCALE) for a, b in ((0, 1), (1, 18), (18, 30))]
    nothing = (torch.zeros_like(whole), torch.full(whole.shape[:2], float("-inf")))
    torch.testing.assert_close(merge([*parts, nothing]), whole)
