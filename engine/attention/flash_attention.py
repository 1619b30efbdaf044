"""The `flash` backend: the flash-attn library over each run of the pool, merged in float32 by log-sum-exp, for CUDA.

A row of the library is what one row of the step sees in one run, its queries rotated back by the run's Δ. Nothing is
gathered. Knows nothing of versions of the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import AttentionBackend, AttentionRow
from engine.attention.flash_api import FlashAPI, KeyRuns
from engine.attention.flash_merge import Parts, merge_by_kernel, merge_plain
from engine.attention.flash_plan import FlashPlan, make_plan
from engine.attention.watched import watched_layers
from engine.kv.pool import KVPool
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable, Rotation

_PROGRAMS_PER_PROCESSOR = 2
_DTYPES = (torch.bfloat16, torch.float16)


def refusal(api: FlashAPI, pool: KVPool, layers: Sequence[LayerSpec]) -> str | None:
    """Why this version can't attend for these layers over this pool, as what follows a colon; None if it can."""
    sizes = sorted({spec.head_dim for spec in layers if not api.takes_head(spec.head_dim)})
    if pool.keys[0].dtype not in _DTYPES:
        return "it computes in bfloat16 and float16 only, and reads KV of these"
    if sizes:
        return f"it has no kernel for heads of size {', '.join(map(str, sizes))}"
    if any(spec.window is not None for spec in layers):
        return "its sliding windows count from where a run ends, not from where the model's layers have theirs"
    if pool.slots < api.fewest_slots:
        return f"it needs a KV pool of at least {api.fewest_slots} tokens"
    return None


@dataclass(frozen=True, eq=False)
class _Step:
    """A plan on the device; what has a name of the plan's is its array.

    Attributes:
        rotations: per rotary table that of the copies.
        reads: float32, the shares of attention, summed over the watched layers; the last one counts for nothing.
    """

    plan: FlashPlan
    runs: KeyRuns
    rotations: tuple[Rotation, ...]
    slots: Tensor
    copy_tokens: Tensor
    query_copies: Tensor
    query_tokens: Tensor
    parts: Tensor
    notes: Tensor
    row_ends: Tensor
    reads: Tensor

    @classmethod
    def of(cls, plan: FlashPlan, rotary: Sequence[RotaryTable], device: torch.device) -> _Step:
        def sent(values: NDArray[np.integer]) -> Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        most = max(row.count for row in plan.rows)
        longest = int(plan.run_lengths.max(initial=0))
        positions = sent(plan.copy_positions)
        return cls(
            plan,
            KeyRuns(sent(plan.query_ends), sent(plan.run_slots), sent(plan.run_lengths), most, longest),
            tuple(table.at(positions) for table in rotary),
            sent(plan.slots),
            sent(plan.copy_tokens),
            sent(plan.query_copies),
            sent(plan.query_tokens),
            sent(plan.parts),
            sent(plan.notes),
            sent(plan.row_ends),
            torch.zeros(plan.reads + 1, device=device),
        )


class FlashAttention(AttentionBackend):
    """Attention by flash-attn, of models that `refusal` has nothing against."""

    def __init__(
        self,
        pool: KVPool,
        rotary: Sequence[RotaryTable],
        layers: Sequence[LayerSpec],
        *,
        api: FlashAPI,
        programs: int | None = None,
    ) -> None:
        """`programs`: about how many a step is parted into; None takes what the device has room for."""
        self._pool, self._rotary, self._layers, self._api = pool, rotary, layers, api
        self._device = pool.keys[0].device
        self._programs = programs or _PROGRAMS_PER_PROCESSOR * _processors(self._device)
        self._watched = watched_layers(len(layers))
        self._planned: _Step | None = None
        if api.reads_behind:
            for cache in (*pool.keys, *pool.values):
                cache.zero_()  # torch.empty may hold NaN

    def plan(self, rows: Sequence[AttentionRow]) -> None:
        spec = self._layers[0]
        plan = make_plan(
            rows,
            self._pool.block_size,
            group=spec.num_heads // spec.num_kv_heads,
            kv_heads=spec.num_kv_heads,
            programs=self._programs,
        )
        self._planned = _Step.of(plan, self._rotary, self._device)

    @property
    def _step(self) -> _Step:
        assert self._planned is not None, "a step must be planned first"
        return self._planned

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spec, step = self._layers[layer], self._step
        tokens = len(q)
        if spec.rotary is None:
            new, queries = q, q.index_select(0, step.query_tokens)
        else:
            rotation = step.rotations[spec.rotary]
            copies = rotation.apply(q if len(step.copy_tokens) == tokens else q.index_select(0, step.copy_tokens))
            new, queries = copies[:tokens], copies.index_select(0, step.query_copies)
        k = self._write(layer, k, v)
        among = self._among_new(spec, new, k, v) if step.plan.among_new else None
        parts = Parts(self._over_runs(layer, queries), among, spec.sinks)
        watched = step.plan.reads > 0 and layer in self._watched
        out, lse = self._merge(parts, wants_lse=watched)
        if watched:
            self._note(parts.runs[1], lse)
        return out

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._write(layer, k, v)

    def _write(self, layer: int, k: Tensor, v: Tensor) -> Tensor:
        """Returns k as it was written, rotated."""
        rotary = self._layers[layer].rotary
        if rotary is not None:
            k = self._step.rotations[rotary].head(len(k)).apply(k)
        self._pool.write(layer, self._step.slots, k, v)
        return k

    def _among_new(self, spec: LayerSpec, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The new tokens of each row among themselves, read from where they were just computed."""
        step = self._step
        most = step.runs.most_queries
        return self._api.among(q, k, v, step.row_ends, most, scale=spec.scale, softcap=spec.softcap)

    def _over_runs(self, layer: int, queries: Tensor) -> tuple[Tensor, Tensor]:
        if not len(queries):
            return queries, queries.new_empty((queries.shape[1], 0), dtype=torch.float32)
        spec = self._layers[layer]
        k, v = (caches[layer].transpose(0, 1) for caches in (self._pool.keys, self._pool.values))
        return self._api.over_runs(queries, k, v, self._step.runs, scale=spec.scale, softcap=spec.softcap)

    def _merge(self, parts: Parts, *, wants_lse: bool) -> tuple[Tensor, Tensor]:
        step = self._step
        if self._device.type == "cuda":
            return merge_by_kernel(parts, step.parts, wants_lse=wants_lse)
        return merge_plain(parts, step.plan.rows)

    def _note(self, run_lse: Tensor, lse: Tensor) -> None:
        """Add what each query found of all that its token saw, mean over heads, to the share of its piece."""
        step = self._step
        shares = torch.exp(run_lse - lse.index_select(1, step.query_tokens)).mean(0)
        step.reads.index_add_(0, step.notes, shares)

    def read(self) -> list[NDArray[np.float16] | None]:
        step = self._step
        if not step.plan.reads or not self._watched:
            return [None] * len(step.plan.rows)
        shares = (step.reads / len(self._watched)).half().cpu().numpy()
        return [
            shares[row.first_read : row.first_read + row.pieces * row.count].reshape(row.pieces, row.count)
            if row.pieces
            else None
            for row in step.plan.rows
        ]


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
