"""What every attention backend must do, told by plain attention over keys that are really rotated to where they stand.

A backend's test file says how it is made and on which device, dtypes and shapes; the checks are here.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import AttentionBackend, AttentionRow
from engine.hashing import token_array
from engine.kv.block_manager import BlockManager
from engine.kv.pool import KVPool
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.models.language_model import LayerSpec
from engine.models.rotary import RopeFrequencies, RotaryTable

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}
_POSITIONS = 2000


@dataclass(frozen=True)
class Trial:
    """A backend as it is tried: made from a pool, rotary tables and layers, with heads of this shape.

    `kv_dtype` is the pool's, if that is another than the model's.
    """

    make: Callable[[KVPool, Sequence[RotaryTable], Sequence[LayerSpec]], AttentionBackend]
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 16
    block_size: int = 8
    num_blocks: int = 80
    seeds: int = 8
    kv_dtype: torch.dtype | None = None

    def layer(self, *, rope: bool = True, **more: Any) -> LayerSpec:
        return LayerSpec(
            self.heads, self.kv_heads, self.head_dim, self.head_dim**-0.5, rotary=0 if rope else None, **more
        )

    def sinks(self) -> Tensor:
        return torch.linspace(-2, 3, self.heads, device=self.device)


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
    """A pool whose free blocks are scattered, and a backend over it of two layers; steps are of the first."""

    def __init__(self, spec: LayerSpec, trial: Trial, seed: int) -> None:
        torch.manual_seed(seed)
        self.random = random.Random(seed)
        self.spec, self.trial = spec, trial
        heads = [(trial.kv_heads, trial.head_dim)] * 2
        dtype = trial.kv_dtype or trial.dtype
        self.pool = KVPool(heads, trial.num_blocks, trial.block_size, dtype=dtype, device=trial.device)
        for cache in (*self.pool.keys, *self.pool.values):
            if cache.dtype.is_floating_point:
                cache.fill_(float("nan"))  # reading a slot that was never written shows
        self.blocks = BlockManager(trial.num_blocks)
        for block in self.blocks.allocate(trial.num_blocks):
            if self.random.random() < 0.7:
                self.blocks.release([block])
        frequencies = RopeFrequencies(tuple(0.7**i for i in range(trial.head_dim // 2)), 1.0)
        self.rotary = RotaryTable.of(frequencies, _POSITIONS, trial.device)
        self.backend = trial.make(self.pool, [self.rotary], [spec, spec])

    def queries(self, count: int) -> Tensor:
        return self._random(count, self.trial.heads)

    def kv(self, count: int) -> tuple[Tensor, Tensor]:
        return self._random(count, self.trial.kv_heads), self._random(count, self.trial.kv_heads)

    def _random(self, count: int, heads: int) -> Tensor:
        """Drawn on the CPU, so that a seed means the same on every device."""
        return torch.randn(count, heads, self.trial.head_dim).to(self.trial.device, self.trial.dtype)

    def segment(self, length: int, start: int, filled: int) -> Segment:
        blocks = self.blocks.allocate(-(-length // self.trial.block_size))
        return Segment(b"", token_array(range(length)), start, blocks, filled)

    def written(self, length: int, start: int, room: int = 0) -> Written:
        """A segment computed at `start`, with room for more tokens."""
        segment = self.segment(length + room, start, length)
        keys, values = self.kv(length)
        slots = torch.tensor(segment.slots(0, length, self.trial.block_size), dtype=torch.int64)
        rotated = self.rotated(keys, start) if self.spec.rotary is not None else keys
        self.pool.write(0, slots.to(self.trial.device), rotated, values)
        return Written(segment, keys, values)

    def rotated(self, x: Tensor, start: int) -> Tensor:
        """x [T, heads, head_dim] as it stands from position `start` on."""
        return self.rotary.rotate(x, torch.arange(start, start + len(x), device=x.device))

    def table(self, placements: Sequence[Placement]) -> VirtualBlockTable:
        return VirtualBlockTable.build(placements, self.trial.block_size)

    def step(self, rows: Sequence[AttentionRow], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One step of the backend; it gets copies, for it may change what it is given."""
        self.backend.plan(rows)
        return self.backend(0, q.clone(), k.clone(), v.clone())

    def expected(self, earlier: list[Written], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q over all keys, each rotated to where it stands now, in float32 [n, heads, head_dim]."""
        values = torch.cat([*(part.values for part in earlier), v]).float()
        values = values.repeat_interleave(self.trial.heads // self.trial.kv_heads, 1).transpose(0, 1)
        weights = self.weights(earlier, q, k)
        return (weights[..., : values.shape[1]] @ values).transpose(0, 1)

    def weights(self, earlier: list[Written], q: Tensor, k: Tensor) -> Tensor:
        """Each query's softmax over all keys, float32 [heads, n, keys], and a last one for the sink if there is one."""
        keys = torch.cat([*(part.keys for part in earlier), k]).float()
        first = len(keys) - len(q)
        behind = torch.arange(first, len(keys), device=q.device)[:, None] - torch.arange(len(keys), device=q.device)
        q = q.float()
        if self.spec.rotary is not None:
            keys, q = self.rotated(keys, 0), self.rotated(q, first)
        keys = keys.repeat_interleave(self.trial.heads // self.trial.kv_heads, 1).transpose(0, 1)
        scores = q.transpose(0, 1) @ keys.transpose(1, 2) * self.spec.scale
        if (cap := self.spec.softcap) is not None:
            scores = torch.tanh(scores / cap) * cap
        window = self.spec.window or keys.shape[1]
        scores = scores.masked_fill((behind < 0) | (behind >= window), float("-inf"))
        if (sinks := self.spec.sinks) is not None:
            scores = torch.cat((scores, sinks[:, None, None].expand(-1, len(q), 1)), -1)
        return scores.softmax(-1)

    def assert_close(self, actual: Tensor, expected: Tensor) -> None:
        assert actual.dtype == self.trial.dtype
        tolerance = TOLERANCE[self.trial.dtype]
        torch.testing.assert_close(actual.float(), expected, atol=tolerance, rtol=tolerance)


@dataclass
class DrawnRow:
    """A row of a step over segments that were moved and cut, with the new tokens' q, k and v."""

    row: AttentionRow
    earlier: list[Written]
    q: Tensor
    k: Tensor
    v: Tensor


def draw_row(bench: Bench, *, pieces: bool = False) -> DrawnRow:
    """Some segments in partly filled blocks, of each some tokens from anywhere on, then 1 to 40 new tokens."""
    choose = bench.random
    earlier = [bench.written(choose.randint(1, 30), choose.randint(0, 200)) for _ in range(choose.randint(0, 4))]
    placements, position = [], 0
    for index, part in enumerate(earlier):
        offset = choose.choice([0, choose.randrange(part.segment.filled)])
        length = choose.randint(1, part.segment.filled - offset)
        placements.append(Placement(part.segment, position, length, offset))
        earlier[index] = part.part(offset, length)
        position += length
    count = choose.choice([1, 1, 5, 40])
    own = bench.written(choose.choice([0, 3, 17]), position, room=count)
    asked = (0, *sorted(choose.sample(range(1, position), min(2, position - 1)))) if pieces and position else ()
    row = AttentionRow(bench.table(placements), own.segment, count, pieces=asked)
    return DrawnRow(row, [*earlier, own], bench.queries(count), *bench.kv(count))


def assert_rows_are_right(spec: LayerSpec, trial: Trial) -> None:
    """Steps of several rows over moved segments with partly filled blocks give what plain attention gives."""
    for seed in range(trial.seeds):
        bench = Bench(spec, trial, seed)
        drawn = [draw_row(bench) for _ in range(bench.random.randint(1, 3))]
        actual = _step(bench, drawn)
        bench.assert_close(actual, torch.cat([bench.expected(each.earlier, each.q, each.k, each.v) for each in drawn]))


def _step(bench: Bench, drawn: Sequence[DrawnRow]) -> Tensor:
    q, k, v = (torch.cat(tensors) for tensors in zip(*((each.q, each.k, each.v) for each in drawn), strict=True))
    return bench.step([each.row for each in drawn], q, k, v)


def assert_a_step_sees_its_earlier_rows(spec: LayerSpec, trial: Trial) -> None:
    """Rows of one sequence in one step: each sees the keys that those before it bring."""
    bench = Bench(spec, trial, seed=5)
    earlier, rows = _rows_of_one_sequence(bench, noted=False)
    q, (k, v) = bench.queries(3 + 11 + 2), bench.kv(3 + 11 + 2)
    bench.assert_close(bench.step(rows, q, k, v), bench.expected([earlier], q, k, v))


def assert_read_of_a_steps_earlier_rows_is_right(spec: LayerSpec, trial: Trial) -> None:
    """Of rows of one sequence in one step each notes what it read of those before it."""
    bench = Bench(spec, trial, seed=5)
    earlier, rows = _rows_of_one_sequence(bench, noted=True)
    q, (k, v) = bench.queries(3 + 11 + 2), bench.kv(3 + 11 + 2)
    bench.assert_close(bench.step(rows, q, k, v), bench.expected([earlier], q, k, v))
    weights, first = bench.weights([earlier], q, k).mean(0), 0
    for row, read in zip(rows, bench.backend.read(), strict=True):
        assert read is not None
        own = weights[first : first + row.num_tokens]
        ends = itertools.pairwise((*row.pieces, row.table.tokens))
        expected = np.stack([own[:, start:end].sum(-1).cpu().numpy() for start, end in ends])
        np.testing.assert_allclose(read, expected, atol=max(1e-3, TOLERANCE[trial.dtype] / 4))
        first += row.num_tokens


def _rows_of_one_sequence(bench: Bench, *, noted: bool) -> tuple[Written, list[AttentionRow]]:
    """Nine tokens that have moved, and rows of 3, 11 and 2 behind them, each a piece of its own."""
    earlier = bench.written(13, 4)
    table = bench.table([Placement(earlier.segment, 0, 9, 4)])
    rows, pieces = list[AttentionRow](), [0]
    for count in (3, 11, 2):
        segment = bench.segment(count, table.tokens, 0)
        rows.append(AttentionRow(table, segment, count, pieces=tuple(pieces) if noted else ()))
        pieces.append(table.tokens)
        table = table.then(Placement(segment, table.tokens, count))
    return earlier.part(4, 9), rows


def assert_new_kv_is_written(spec: LayerSpec, trial: Trial) -> None:
    """New keys lie in their slots, rotated where they stand, and new values as they are, kept or attended to."""
    bench = Bench(spec, trial, seed=3)
    earlier = bench.written(5, 0)
    own = bench.segment(10, 5, 0)
    before = bench.pool.tokens_written
    k, v = bench.kv(10)
    bench.step([AttentionRow(bench.table([Placement(earlier.segment, 0, 5)]), own, 10)], bench.queries(10), k, v)
    slots = own.slots(0, 10, trial.block_size)
    keys = bench.rotated(k, 5) if spec.rotary is not None else k
    rounding = 1e-5 if trial.dtype is torch.float32 else 1e-2
    torch.testing.assert_close(bench.pool.keys[0][:, slots].transpose(0, 1), keys, atol=1e-5, rtol=rounding)
    torch.testing.assert_close(bench.pool.values[0][:, slots].transpose(0, 1), v)
    assert bench.pool.tokens_written == before + 10
    bench.backend.keep(1, k.clone(), v.clone())
    assert torch.equal(bench.pool.keys[1][:, slots], bench.pool.keys[0][:, slots])
    assert torch.equal(bench.pool.values[1][:, slots], bench.pool.values[0][:, slots])


def assert_read_is_right(spec: LayerSpec, trial: Trial) -> None:
    """What a step notes as read of each piece is the attention paid to it, mean over heads; None where not asked."""
    for seed in range(trial.seeds):
        bench = Bench(spec, trial, seed)
        drawn = [draw_row(bench, pieces=index != 1) for index in range(3)]
        actual = _step(bench, drawn)
        bench.assert_close(actual, torch.cat([bench.expected(each.earlier, each.q, each.k, each.v) for each in drawn]))
        for each, read in zip(drawn, bench.backend.read(), strict=True):
            if not each.row.pieces:
                assert read is None
                continue
            assert read is not None
            assert read.dtype == np.float16
            expected = _expected_read(bench, each)
            np.testing.assert_allclose(read, expected, atol=max(1e-3, TOLERANCE[trial.dtype] / 4))


def _expected_read(bench: Bench, drawn: DrawnRow) -> NDArray[np.float32]:
    weights = bench.weights(drawn.earlier, drawn.q, drawn.k).mean(0)
    ends = (*drawn.row.pieces, drawn.row.table.tokens)
    return np.stack([weights[:, start:end].sum(-1).cpu().numpy() for start, end in itertools.pairwise(ends)])
