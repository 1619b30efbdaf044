"""The `triton` backend: kernels that read the pool through a packed plan of the step, for CUDA.

A layer is three launches, whatever the rows and segments are: write the new KV, attend, merge. Knows nothing of graphs,
but for that a step may be planned into buffers that stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from engine.attention.base import AttentionBackend, AttentionRow
from engine.attention.kernels.attend import attend_kernel
from engine.attention.kernels.merge import merge_kernel, shares_kernel
from engine.attention.kernels.write_kv import write_kv_kernel
from engine.attention.step_buffers import StepBuffers
from engine.attention.step_plan import (
    HEADER,
    KINDS,
    MOST_KINDS,
    NOTES_AT,
    SPANS_AT,
    TILE,
    UNREAD,
    Kind,
    Shape,
    StepPlan,
    advance,
    choose_block_m,
    make_plan,
)
from engine.attention.tile_launch import tile_launch
from engine.attention.watched import watched_layers
from engine.device import processors, shared_memory
from engine.kv.pool import KVPool
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable

_PROGRAMS_PER_PROCESSOR = 2
"""Programs that a multiprocessor gets, about: enough to keep its memory busy while some of them wait."""


@dataclass(frozen=True)
class _Turn:
    """A rotary table as the kernels read it; `columns` is the length of its rows."""

    cos: Tensor
    sin: Tensor
    column: Tensor
    sign: Tensor
    partner: Tensor
    columns: int

    @classmethod
    def of(cls, table: RotaryTable) -> _Turn:
        cos, sin = table.cos.contiguous(), table.sin.contiguous()
        return cls(cos, sin, table.column.int(), table.sign, table.partner.int(), cos.shape[1])


class TritonAttention(AttentionBackend):
    """Attention by this project's own kernels.

    Attributes:
        step: the buffers of the step that is under way.
        kinds: of the layers.
        programs: about how many a step is parted into.
        group: most query heads that share a KV head; `least_block_m` rows of a tile hold that many.
    """

    def __init__(
        self,
        pool: KVPool,
        rotary: Sequence[RotaryTable],
        layers: Sequence[LayerSpec],
        *,
        programs: int | None = None,
        copy_engine: bool | None = None,
    ) -> None:
        """Take the backend's place over `pool`, whose slots become 0 where the copy engine will read them.

        Args:
            programs: about how many a step is parted into; None takes what the device has room for.
            copy_engine: whether tiles of keys are copied by the engine for bulk copies that Hopper and later devices
                have (TMA), if heads are of a size it can copy; None takes what the device has.
        """
        self._pool = pool
        self._layers = layers
        self._device = pool.keys[0].device
        self._copy_engine = _has_copy_engine(self._device) if copy_engine is None else copy_engine
        self._shared_memory = shared_memory(self._device)
        self.programs = programs or _PROGRAMS_PER_PROCESSOR * processors(self._device)
        self._tiles = [self._tiles_of(layer) for layer in range(len(layers))]
        self._turns = [_Turn.of(table) for table in rotary]
        nothing = torch.zeros(1, dtype=torch.int32, device=self._device)
        self._no_turn = _Turn(nothing, nothing, nothing, nothing, nothing, 0)
        kinds = [Kind(spec.num_heads // spec.num_kv_heads, spec.window, spec.num_kv_heads) for spec in layers]
        self.kinds = tuple(dict.fromkeys(kinds))
        assert len(self.kinds) <= MOST_KINDS, "a model with that many kinds of layers is not known"
        self._kind_of = [self.kinds.index(kind) for kind in kinds]
        self._watched = watched_layers(len(layers))
        self.group = max(kind.group for kind in self.kinds)
        self.least_block_m = choose_block_m(1, self.group)
        self._head_dim = max(spec.head_dim for spec in layers)
        self._heads = max(spec.num_heads for spec in layers)
        self._plan: StepPlan | None = None

    @property
    def blocks(self) -> tuple[int, ...]:
        """Rows that tiles may have."""
        return tuple(sorted({choose_block_m(1 << power, self.group) for power in range(12)}))

    @property
    def planned(self) -> StepPlan:
        """The step that is under way."""
        assert self._plan is not None
        return self._plan

    # -- planning --------------------------------------------------------------------------------------------------

    def plan(self, rows: Sequence[AttentionRow]) -> None:
        plan = self.make_plan(rows)
        self.begin(plan, self.buffers_for(plan))

    def make_plan(
        self, rows: Sequence[AttentionRow], *, tokens: int | None = None, block_m: int | None = None
    ) -> StepPlan:
        """The rows as a plan, with places for `tokens` new tokens if there shall be more than they have."""
        return make_plan(
            rows,
            self.kinds,
            self._pool.block_size,
            programs=self.programs,
            tokens=tokens,
            block_m=block_m,
        )

    def advance(self, plan: StepPlan) -> bool:
        """Move a plan of answers on by one token each, see `step_plan.advance`."""
        return advance(plan, len(self.kinds), self._pool.block_size)

    def begin(self, plan: StepPlan, buffers: StepBuffers) -> None:
        """Compute by `plan`, which lies in `buffers`, from now on."""
        self._plan, self.step = plan, buffers
        self._pool.tokens_written += plan.new_tokens

    def buffers_for(self, plan: StepPlan) -> StepBuffers:
        """Buffers just as large as this plan needs them."""
        reads = [read for read in plan.reads if read is not None]
        lse = plan.tokens * self._heads if reads else 0
        return StepBuffers(
            torch.from_numpy(plan.data).to(self._device),
            plan.shape,
            plan.tokens,
            *self.part_buffers(plan.shape.parts),
            self._floats(plan.read_slots * self._heads),
            self._floats(lse),
            torch.zeros(plan.shares, device=self._device),
            notes=int(plan.data[NOTES_AT + 1]),
            longest=max((read.count for read in reads), default=0),
        )

    def empty_step(self, tokens: int, block_m: int, *, noted: bool) -> StepBuffers:
        """A step of that size in which nothing is written or attended to: running it compiles what such steps need."""
        data = torch.zeros(HEADER + 4 * tokens, dtype=torch.int32, device=self._device)
        data[HEADER + 2 * tokens : HEADER + 3 * tokens] = -1
        ones = (1,) * len(self.kinds)
        few, row = self._floats(1), self._floats(tokens * self._heads)
        shape = Shape(block_m, ones, ones, 0)
        return StepBuffers(data, shape, tokens, few, few, row, row, few, notes=int(noted), longest=int(noted))

    def part_buffers(self, parts: int) -> tuple[Tensor, Tensor]:
        """Room for partial results of so many tokens, and for their log-sum-exps."""
        return self._floats(parts * self._heads * self._head_dim), self._floats(parts * self._heads)

    def _floats(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.float32, device=self._device)

    # -- a layer ---------------------------------------------------------------------------------------------------

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spec, step = self._layers[layer], self.step
        turn = self._turn(layer)
        self._write(layer, turn, k, v)
        kind, watched = self._kind_of[layer], bool(step.notes) and layer in self._watched
        if watched and spec.window is not None:
            step.read.fill_(float("-inf"))  # what is out of sight is not visited
        out = torch.empty(len(q), spec.num_heads, spec.head_dim, dtype=q.dtype, device=q.device)
        self._attend(layer, kind, turn, q, out, watched)
        if step.shape.merges[kind]:
            self._merge(kind, out, watched)
        if watched:
            self._note(spec)
        return out

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._write(layer, self._turn(layer), k, v)

    def _turn(self, layer: int) -> _Turn:
        rotary = self._layers[layer].rotary
        return self._no_turn if rotary is None else self._turns[rotary]

    def _write(self, layer: int, turn: _Turn, k: Tensor, v: Tensor) -> None:
        spec, pool, tokens = self._layers[layer], self._pool, self.step.tokens
        block_t = 1 if tokens <= 16 else 16
        k_scales, v_scales = pool.scales(layer)
        write_kv_kernel[(triton.cdiv(tokens, block_t), spec.num_kv_heads)](
            k,
            v,
            pool.keys[layer],
            pool.values[layer],
            k_scales,
            v_scales,
            self.step.plan,
            turn.cos,
            turn.sin,
            turn.column,
            turn.sign,
            turn.partner,
            k.stride(0),
            k.stride(1),
            v.stride(0),
            v.stride(1),
            pool.slots,
            turn.columns,
            tokens,
            DIM=spec.head_dim,
            BLOCK_T=block_t,
            BLOCK_D=_padded(spec.head_dim),
            HEADER=HEADER,
            ROTATE=spec.rotary is not None,
            SCALED=pool.scaled,
            LARGEST=pool.largest,
            WHOLE=not pool.keys[layer].dtype.is_floating_point,
            num_warps=1 if block_t == 1 else 4,
        )

    def _tiles_of(self, layer: int) -> tuple[TensorDescriptor, TensorDescriptor] | None:
        """Keys and values as tiles for the copy engine; None where it isn't used."""
        head_dim = self._layers[layer].head_dim
        if not self._copy_engine or head_dim != _padded(head_dim):
            return None
        keys, values = (
            cache.zero_().view(-1, head_dim) for cache in (self._pool.keys[layer], self._pool.values[layer])
        )
        keys_, values_ = (TensorDescriptor.from_tensor(cache, [TILE, head_dim]) for cache in (keys, values))
        return keys_, values_

    def _attend(self, layer: int, kind: int, turn: _Turn, q: Tensor, out: Tensor, watched: bool) -> None:
        spec, step, pool, tiles = self._layers[layer], self.step, self._pool, self._tiles[layer]
        k_scales, v_scales = pool.scales(layer)
        launch = tile_launch(step.shape.block_m, _padded(spec.head_dim), q.element_size(), self._shared_memory)
        assert launch is not None, "`refusal` says so before"
        attend_kernel[(step.shape.works[kind], spec.num_kv_heads)](
            q,
            pool.keys[layer] if tiles is None else tiles[0],
            pool.values[layer] if tiles is None else tiles[1],
            k_scales,
            v_scales,
            out,
            step.lse,
            step.part,
            step.part_lse,
            step.read,
            step.plan,
            turn.cos,
            turn.sin,
            turn.column,
            turn.sign,
            turn.partner,
            step.part if spec.sinks is None else spec.sinks,
            q.stride(0),
            q.stride(1),
            pool.slots,
            spec.scale,
            spec.softcap or 1.0,
            turn.columns,
            HEADS=spec.num_heads,
            GROUP=spec.num_heads // spec.num_kv_heads,
            DIM=spec.head_dim,
            BLOCK_M=step.shape.block_m,
            BLOCK_N=TILE,
            BLOCK_D=_padded(spec.head_dim),
            KIND_AT=KINDS + 4 * kind,
            SPANS_AT=SPANS_AT,
            UNREAD=UNREAD,
            WINDOW=spec.window or 0,
            ROTATE=spec.rotary is not None,
            SOFTCAP=spec.softcap is not None,
            SINKS=spec.sinks is not None,
            READ=watched,
            SCALED=pool.scaled,
            COPIED=tiles is not None,
            # only a few of a span's keys are not seen by all, unless there is a window
            MASKED_STAGES=1 if spec.window is None else launch.stages,
            num_warps=launch.warps,
            num_stages=launch.stages,
        )

    def _merge(self, kind: int, out: Tensor, watched: bool) -> None:
        step = self.step
        _, heads, head_dim = out.shape
        block_d = 32
        merge_kernel[(step.shape.merges[kind], heads, triton.cdiv(head_dim, block_d))](
            step.part,
            step.part_lse,
            out,
            step.lse,
            step.plan,
            HEADS=heads,
            DIM=head_dim,
            BLOCK_P=64,
            BLOCK_D=block_d,
            KIND_AT=KINDS + 4 * kind,
            READ=watched,
            num_warps=4,
        )

    def _note(self, spec: LayerSpec) -> None:
        step, block_t = self.step, 32
        shares_kernel[(step.notes, triton.cdiv(step.longest, block_t))](
            step.read,
            step.lse,
            step.shares,
            step.plan,
            HEADS=spec.num_heads,
            BLOCK_T=block_t,
            BLOCK_H=triton.next_power_of_2(spec.num_heads),
            NOTES_AT=NOTES_AT,
        )

    # -- what was read ---------------------------------------------------------------------------------------------

    def read(self) -> list[NDArray[np.float16] | None]:
        plan = self.planned
        if not self.step.notes or not self._watched:
            return [None] * len(plan.reads)
        shares = (self.step.shares / len(self._watched)).half().cpu().numpy()
        return [
            None
            if read is None
            else shares[read.first : read.first + read.pieces * read.count].reshape(read.pieces, read.count)
            for read in plan.reads
        ]


def _padded(head_dim: int) -> int:
    """Matrix instructions take powers of two from 16 on."""
    return max(16, int(triton.next_power_of_2(head_dim)))


def _has_copy_engine(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def refusal(layers: Sequence[LayerSpec], dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernels can't serve these layers of a model of `dtype` on `device`; None if they can."""
    for spec in layers:
        block_m = choose_block_m(1 << 20, spec.num_heads // spec.num_kv_heads)
        if tile_launch(block_m, _padded(spec.head_dim), dtype.itemsize, shared_memory(device)) is None:
            return f"heads of {spec.head_dim} numbers in {dtype} don't fit into the shared memory of {device}"
    return None
