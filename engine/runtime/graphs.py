"""Graphs: steps of few tokens as captured CUDA graphs, one for each size, whatever the rows and their tables are.

All that differs from step to step is in one array of integers that the kernels read, so switching, moving and composing
chunks replays the same graph. Knows nothing of questions or chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.attention.base import AttentionRow, RowResult
from engine.attention.row_keys import IntArray
from engine.attention.step_buffers import StepBuffers
from engine.attention.step_plan import HEADER, Shape, StepPlan
from engine.attention.triton_attention import TritonAttention
from engine.models.decoder import Decoder
from engine.runtime.scheduler import StepRow

Compute = Callable[[], Tensor]
Announce = Callable[["Size", IntArray], None]
"""Is told of a step, its size and packed plan, before it is computed."""
Capture = Callable[[Compute], Compute]
"""Makes of a computation one that does the same again, reading the same tensors and returning the same one."""

_Last = tuple[StepPlan, list[AttentionRow], list[int]]
"""The last step: its plan, its rows, and how many tokens their segments held."""

SIZES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
"""Tokens of a step. A step of more keeps the device busy for longer than it takes to launch it."""
_MOST_WANTED = 16
"""Places of a step that logits are computed for."""
_NARROW, _WIDE = 16, 64
"""Rows of a tile: for answers, a token each; and for drafts and questions."""
_DATA = 1 << 17
"""Integers of the largest plan: room for a million tokens, even where each block of 64 is a span of its own."""


@dataclass(frozen=True, order=True)
class Size:
    """What one graph is for: `tokens` places, tiles of `block_m` rows."""

    tokens: int
    block_m: int

    @property
    def wanted(self) -> int:
        return min(self.tokens, _MOST_WANTED)


@dataclass
class _Graph:
    """One size: its kernels read `buffers`, `replay` computes logits, float32 [size.wanted, vocab]."""

    size: Size
    buffers: StepBuffers
    replay: Compute


class Graphs:
    """The graphs of one decoder with its attention.

    Attributes:
        captured: how many there are; none is ever added after `prepare`.

    Invariant: between a step's plan and its replay nobody else uses the buffers, which all graphs share.
    """

    def __init__(
        self,
        decoder: Decoder,
        attention: TritonAttention,
        capture: Capture,
        sizes: Sequence[int] = SIZES,
        announce: Announce | None = None,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self._capture = capture
        self._announce = announce
        self._sizes = sorted(sizes)
        self._graphs: dict[Size, _Graph] = {}
        device = decoder.device
        self._data = torch.zeros(_DATA, dtype=torch.int32, device=device)
        self._staged = torch.zeros(_DATA, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._staging = self._staged.numpy()
        self._last: _Last | None = None

    @property
    def captured(self) -> int:
        return len(self._graphs)

    @torch.inference_mode()
    def prepare(self, progress: Callable[[float], None]) -> None:
        """Compile and capture all sizes, so that no user waits for it later; `progress` is told the share done."""
        sizes = sorted(
            {Size(tokens, block_m) for tokens in self._sizes for block_m in self._blocks(tokens)}, reverse=True
        )
        shapes = {size: self._shape(size) for size in sizes}
        parts = self._attention.part_buffers(max(shape.parts for shape in shapes.values()))
        nothing = self._data.new_empty(0, dtype=torch.float32)
        for index, size in enumerate(sizes):
            buffers = StepBuffers(self._data, shapes[size], size.tokens, *parts, nothing, nothing, nothing)
            self._graphs[size] = _Graph(size, buffers, self._capture(self._computation(size, buffers)))
            progress((index + 1) / len(sizes))

    def _blocks(self, tokens: int) -> tuple[int, ...]:
        least = max(_NARROW, self._attention.least_block_m)
        wide = max(_WIDE, least)
        return (least,) if tokens <= 2 else (least, wide) if tokens <= _MOST_WANTED else (wide,)

    def _shape(self, size: Size) -> Shape:
        """Room for whatever steps of this size may need; see `make_plan` for how many works there are."""
        kinds = self._attention.kinds
        tiles = [min(size.tokens, size.tokens // (size.block_m // kind.group) + _MOST_WANTED) for kind in kinds]
        works = tuple(
            self._attention.programs // kind.kv_heads + 3 * count for kind, count in zip(kinds, tiles, strict=True)
        )
        parts = max(count * (size.block_m // kind.group) for kind, count in zip(kinds, works, strict=True))
        return Shape(size.block_m, works, (size.tokens,) * len(kinds), parts)

    def _computation(self, size: Size, buffers: StepBuffers) -> Compute:
        count = size.tokens
        places = self._data[HEADER : HEADER + 4 * count].view(4, count)

        def compute() -> Tensor:
            self._attention.step = buffers
            hidden = self._decoder.forward(places[0], places[1], self._attention)
            return self._decoder.logits(hidden.index_select(0, places[3, : size.wanted]))

        self._data[:HEADER] = 0  # no works, no merges
        places.zero_()  # another size's places lie elsewhere
        places[2] = -1
        return compute

    def release(self) -> None:
        """Give the graphs back; no step can be computed any more."""
        self._graphs.clear()

    # -- steps -----------------------------------------------------------------------------------------------------

    def run(self, rows: Sequence[StepRow], wanted: Sequence[int]) -> tuple[Tensor, list[RowResult]] | None:
        """See `SmallSteps`; None if no graph fits."""
        graph = self._fitting(rows, len(wanted))
        if graph is None:
            return None
        plan = self._plan([row.row for row in rows], graph.size)
        if not _fits(plan, graph.buffers.shape):
            return None
        count = graph.size.tokens
        tokens = np.concatenate([row.tokens for row in rows]) if len(rows) > 1 else rows[0].tokens
        plan.data[HEADER : HEADER + len(tokens)] = tokens
        plan.data[HEADER + 3 * count : HEADER + 3 * count + len(wanted)] = wanted
        if self._announce is not None:
            self._announce(graph.size, plan.data)
        self._attention.begin(plan, graph.buffers)
        return self.replay(graph.size, plan.data)[: len(wanted)], [RowResult()] * len(rows)

    def replay(self, size: Size, data: IntArray) -> Tensor:
        """Compute a step that is planned for `size` and fits: logits of all its wanted places, good until the next."""
        self._send(data)
        return self._graphs[size].replay()

    def _fitting(self, rows: Sequence[StepRow], wanted: int) -> _Graph | None:
        """The smallest graph for these rows; none notes what is read, and none for many rows that are no answers."""
        if wanted > _MOST_WANTED or len(rows) > _MOST_WANTED or any(row.row.pieces for row in rows):
            return None
        counts = [row.row.num_tokens for row in rows]
        total, least = sum(counts), max(_NARROW, self._attention.least_block_m)
        tokens = next((size for size in self._sizes if size >= total), None)
        if tokens is None:
            return None
        narrow = tokens <= 2 or (tokens <= _MOST_WANTED and max(counts) * self._attention.group <= least)
        return self._graphs[Size(tokens, least if narrow else max(_WIDE, least))]

    def _plan(self, rows: list[AttentionRow], size: Size) -> StepPlan:
        """The plan of this step: the last one moved on where answers just go on."""
        filled = [row.segment.filled for row in rows]
        if self._last is not None and self._goes_on(self._last, rows, filled, size):
            plan = self._last[0]
        else:
            plan = self._attention.make_plan(rows, tokens=size.tokens, block_m=size.block_m)
        self._last = (plan, rows, filled)
        return plan

    def _goes_on(self, last: _Last, rows: list[AttentionRow], filled: list[int], size: Size) -> bool:
        plan, before, were = last
        same = (
            plan.tokens == size.tokens
            and plan.shape.block_m == size.block_m
            and len(rows) == len(before)
            and all(
                row.table is old.table
                and row.segment is old.segment
                and row.num_tokens == old.num_tokens == 1
                and now == then + 1
                for row, old, now, then in zip(rows, before, filled, were, strict=True)
            )
        )
        return same and self._attention.advance(plan)

    def _send(self, data: IntArray) -> None:
        """Bring a plan to the device. The last step is done, so nobody reads the last one any more."""
        length = len(data)
        self._staging[:length] = data
        self._data[:length].copy_(self._staged[:length], non_blocking=True)


def _fits(plan: StepPlan, shape: Shape) -> bool:
    """Whether kernels launched for `shape` do all of the plan's work."""
    return (
        len(plan.data) <= _DATA
        and all(has <= room for has, room in zip(plan.shape.works, shape.works, strict=True))
        and all(has <= room for has, room in zip(plan.shape.merges, shape.merges, strict=True))
        and plan.shape.parts <= shape.parts
    )


def capture_for(device: torch.device) -> Capture:
    """Captures on CUDA; elsewhere a graph is the computation itself, done again over the same buffers."""
    return CudaCapture(device) if device.type == "cuda" else lambda compute: compute


class CudaCapture:
    """Captures on CUDA; all graphs share one memory pool, since their results are used up one by one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        torch.cuda.synchronize(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            compute()  # compiles what is not compiled yet
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # other threads, as NCCL's, may look at what they wait for meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
