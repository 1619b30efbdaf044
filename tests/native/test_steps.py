"""Steps by the native library give what steps in torch give: logits and KV, whatever rows see of the pool."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import Engine, SamplingParams
from engine.attention.base import AttentionRow, RowResult
from engine.attention.torch_attention import TorchAttention
from engine.kv.block_manager import BlockManager
from engine.kv.pool import KVPool
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.model import load_model
from engine.models.decoder import Decoder
from engine.models.loading import load_decoder
from engine.native.abi import MOST_TOKENS
from engine.native.library import load_level
from engine.native.stepper import StepArrays, Stepped, Stepper, unfit
from engine.runtime.make_runner import make_runner
from engine.runtime.native_steps import NativeSteps, arrays_of
from engine.runtime.runner import Runner, _sampled
from engine.runtime.scheduler import StepRow
from tests.engine.oracle import finish
from tests.engine.test_parity import config
from tests.native.libraries import EACH
from tests.tiny_models import NATIVE, tiny_model

CPU = torch.device("cpu")
BLOCK = 8
THREADS = 3
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.2}
READ_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-2}


@dataclass
class Sides:
    """One decoder over two pools with the same KV: one is computed in torch, one by the library."""

    decoder: Decoder
    pools: tuple[KVPool, KVPool]
    torch: Runner
    native: NativeSteps
    stepper: Stepper

    def compare(self, rows: Sequence[StepRow]) -> list[RowResult]:
        """Logits behind all that are wanted, what is read, and all that is in the pools afterwards."""
        expected, noted = self.torch.run(rows)
        computed = self.native.run(rows, _sampled(rows).tolist())
        assert computed is not None
        tolerance = TOLERANCE[self.decoder.dtype]
        if expected is not None:
            torch.testing.assert_close(computed[0], expected, atol=tolerance, rtol=tolerance)
        for mine, its in zip(*map(caches, self.pools), strict=True):
            torch.testing.assert_close(its, mine, atol=tolerance, rtol=tolerance, equal_nan=True)
        for right, found in zip(noted, computed[1], strict=True):
            assert (right.read is None) == (found.read is None)
            if right.read is not None and found.read is not None:
                assert found.read.dtype == np.float16
                np.testing.assert_allclose(found.read, right.read, atol=READ_TOLERANCE[self.decoder.dtype])
        return computed[1]


def caches(pool: KVPool) -> Tensor:
    return torch.stack([*pool.keys, *pool.values]).float()


@pytest.fixture(params=EACH)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sides(level: str, family: str, dtype: torch.dtype, threads: int = THREADS) -> Sides:
    decoder = load_decoder(tiny_model(family), device=CPU, dtype=dtype)
    heads = [(spec.num_kv_heads, spec.head_dim) for spec in decoder.layers]
    pools = tuple(KVPool(heads, 64, BLOCK, dtype=dtype, device=CPU) for _ in range(2))
    for pool in pools:
        for cache in (*pool.keys, *pool.values):
            cache.fill_(float("nan"))  # reading a slot that was never written shows
    runner = Runner(decoder, TorchAttention(pools[0], decoder.rotary, decoder.layers), CPU)
    library = load_level(level)
    assert library is not None
    stepper = Stepper(library, decoder, pools[1], {}, threads)
    return Sides(decoder, (pools[0], pools[1]), runner, NativeSteps(stepper, pools[1]), stepper)


class Drawing:
    """Random rows over both pools of `sides`."""

    def __init__(self, sides: Sides, seed: int) -> None:
        self.sides, self.random = sides, random.Random(seed)
        self.blocks = BlockManager(64)
        scattered = self.blocks.allocate(64)
        self.random.shuffle(scattered)
        for block in scattered:
            self.blocks.release([block])

    def tokens(self, count: int) -> np.ndarray:
        return np.array(self.random.choices(range(self.sides.decoder.vocab_size), k=count), dtype=np.int32)

    def segment(self, length: int, start: int) -> Segment:
        return Segment(b"", self.tokens(length), start, self.blocks.allocate(-(-length // BLOCK)), 0)

    def written(self, length: int, start: int, room: int = 0) -> Segment:
        """A segment computed in torch behind nothing, as if from `start` on, in both pools."""
        segment = self.segment(length + room, start)
        if length:
            before = self.segment(start, 0) if start else None
            placements = [Placement(before, 0, start)] if before else []
            if before:
                self.compute(VirtualBlockTable.build([], BLOCK), before, start)
            self.compute(VirtualBlockTable.build(placements, BLOCK), segment, length)
            if before:
                self.blocks.release(before.blocks)
        segment.filled = length
        return segment

    def compute(self, table: VirtualBlockTable, segment: Segment, count: int) -> None:
        self.sides.torch.run([StepRow(None, AttentionRow(table, segment, count), segment.tokens[:count], 0)])  # type: ignore[arg-type]
        mine, its = self.sides.pools
        for a, b in zip((*mine.keys, *mine.values), (*its.keys, *its.values), strict=True):
            b.copy_(a)

    def row(self, most: int, *, noted: bool = False) -> StepRow:
        """Some moved segments in partly filled blocks, of each some tokens from anywhere on, then new tokens.

        If `noted`, pieces begin anywhere in them, some of them empty, and logits of some tokens or none are wanted.
        """
        choose, placements, position = self.random, list[Placement](), 0
        for _ in range(choose.randint(0, 3)):
            segment = self.written(choose.randint(1, 20), choose.choice([0, 5, 40]))
            offset = choose.choice([0, choose.randrange(segment.filled)])
            length = choose.randint(1, segment.filled - offset)
            placements.append(Placement(segment, position, length, offset))
            position += length
        count = choose.randint(1, most)
        own = self.segment(count + 11, position)
        if choose.random() < 0.5:
            self.compute(VirtualBlockTable.build(placements, BLOCK), own, 11)
            own.filled = 11
        pieces = (0, *sorted(choose.choices(range(position + 1), k=choose.randint(0, 5)))) if noted else ()
        row = AttentionRow(VirtualBlockTable.build(placements, BLOCK), own, count, pieces=pieces)
        samples = choose.choice([0, 1, count]) if noted else count
        return StepRow(None, row, own.tokens[own.filled : own.filled + count], samples)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", NATIVE)
def test_every_family(level: str, family: str) -> None:
    both = sides(level, family, torch.float32)
    for seed in range(4):
        drawing = Drawing(both, seed)
        both.compare([drawing.row(4) for _ in range(drawing.random.randint(1, 4))])
    both.native.release()


def test_bfloat16(level: str) -> None:
    both = sides(level, "qwen3", torch.bfloat16)
    for seed in range(4):
        drawing = Drawing(both, seed)
        both.compare([drawing.row(MOST_TOKENS)])
    both.native.release()


def test_a_step_sees_its_earlier_rows(level: str) -> None:
    both = sides(level, "llama", torch.float32)
    drawing, rows = Drawing(both, 1), list[StepRow]()
    table = VirtualBlockTable.build([Placement(drawing.written(13, 5), 0, 9, 4)], BLOCK)
    for count in (3, 9, 2):
        segment = drawing.segment(count, table.tokens)
        rows.append(StepRow(None, AttentionRow(table, segment, count), segment.tokens, count))  # type: ignore[arg-type]
        table = table.then(Placement(segment, table.tokens, count))
    both.compare(rows)
    both.native.release()


def test_a_long_context_is_parted_among_threads(level: str) -> None:
    """Pieces of it end anywhere in runs; and the number of threads makes no difference to any number."""
    both = sides(level, "qwen3", torch.float32, threads=7)
    drawing = Drawing(both, 2)
    segments = [drawing.written(length, 0) for length in (130, 7, 61, 150)]
    starts = np.cumsum([0, *(segment.filled for segment in segments)]).tolist()
    placements = [Placement(segment, start, segment.filled) for segment, start in zip(segments, starts, strict=False)]
    table = VirtualBlockTable.build(placements, BLOCK)
    own = drawing.segment(4, table.tokens)
    rows = [StepRow(None, AttentionRow(table, own, 4), own.tokens, 4)]  # type: ignore[arg-type]
    both.compare(rows)
    results = []
    for threads in range(1, 8):
        both.stepper.threads = threads
        results.append(both.stepper.step(arrays_of(rows, range(4), BLOCK)).logits)
    assert all(torch.equal(result, results[0]) for result in results)
    both.native.release()


def test_what_it_leaves_to_others() -> None:
    both = sides(EACH[0].values[0], "llama", torch.float32)  # type: ignore[arg-type]
    drawing = Drawing(both, 3)
    own = drawing.segment(MOST_TOKENS + 1, 0)
    nothing = VirtualBlockTable.build([], BLOCK)
    many = StepRow(None, AttentionRow(nothing, own, MOST_TOKENS + 1), own.tokens, 1)  # type: ignore[arg-type]
    assert both.native.run([many], [0]) is None
    written = both.pools[1].tokens_written
    one = StepRow(None, AttentionRow(nothing, own, 1), own.tokens[:1], 1)  # type: ignore[arg-type]
    assert both.native.run([one], [0]) is not None
    assert both.pools[1].tokens_written == written + 1
    both.native.release()
    both.native.release()


def test_what_it_is_not_made_for() -> None:
    decoder = load_decoder(tiny_model("llama"), device=CPU, dtype=torch.float32)
    heads = [(spec.num_kv_heads, spec.head_dim) for spec in decoder.layers]
    assert unfit(decoder, KVPool(heads, 4, BLOCK, dtype=torch.float32, device=CPU)) is None
    assert "8 bits" in str(unfit(decoder, KVPool(heads, 4, BLOCK, dtype=torch.int8, device=CPU)))


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(config(tiny_model("llama"))) as engine:
        yield engine


def test_an_engine_on_a_cpu_answers_by_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list[int]()
    step = Stepper.step

    def counted(self: Stepper, arrays: StepArrays) -> Stepped:
        steps.append(len(arrays.ids))
        return step(self, arrays)

    monkeypatch.setattr(Stepper, "step", counted)
    finish(engine.chat([{"role": "user", "content": "x"}], SamplingParams(max_tokens=5)))
    assert len(steps) >= 4


@pytest.mark.parametrize("attention", ["torch", "triton"])
def test_an_attention_that_was_asked_for_attends(attention: str) -> None:
    if attention == "triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("where there is a GPU, Triton's kernels are not interpreted on the CPU")
    runner = make_runner(load_model(config(tiny_model("llama"), attention=attention)))
    assert isinstance(runner._small_steps, NativeSteps) == (attention == "torch")
    runner.close()
