"""The `torch` backend: attention per run of the pool, on views, merged by log-sum-exp.

Nothing is gathered: a segment is read where it lies, by queries rotated back by its Δ. The reference for all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import AttentionBackend, AttentionRow
from engine.attention.dense import attend, merge, shares
from engine.attention.joined_rows import joined
from engine.attention.new_kv import NewKV
from engine.attention.watched import watched_layers
from engine.kv.pool import KVPool
from engine.kv.virtual_block_table import Placement, Run, VirtualBlockTable
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable, Rotation, rotate_by_each


@dataclass(frozen=True)
class _Runs:
    """Runs to be read; `turn` says for each which of the rotated copies of the queries reads it, copy 0 has Δ = 0."""

    runs: tuple[Run, ...]
    turn: tuple[int, ...]


@dataclass(frozen=True)
class _RowPlan:
    """One row, ready for the layers: its tokens [first, first + count) of the step and the runs before them.

    Attributes:
        watched: the runs cut where pieces begin, for the layers in which `read` is noted.
        piece: the piece that each of these is in, one more than there are for what is in none.
        read: float32 [pieces + 1, count], summed over the watched layers.
    """

    first: int
    count: int
    position: int
    runs: _Runs
    copies: int
    rotations: tuple[list[Rotation], ...]  # per rotary table one for each copy of the queries
    watched: _Runs
    piece: Tensor
    read: Tensor


class TorchAttention(AttentionBackend):
    """Attention by torch's own kernels on any device."""

    def __init__(self, pool: KVPool, rotary: Sequence[RotaryTable], layers: Sequence[LayerSpec]) -> None:
        self._pool = pool
        self._layers = layers
        self._new = NewKV(pool, rotary, layers)
        self._watched = watched_layers(len(layers))
        self._rows: list[_RowPlan] = []
        self._watched_rows: list[_RowPlan] = []

    def plan(self, rows: Sequence[AttentionRow]) -> None:
        together = joined(rows)
        self._rows = self._plan_rows(together)
        self._watched_rows = []
        if any(row.pieces for row in rows):
            self._watched_rows = self._rows if len(together) == len(rows) else self._plan_rows(rows)
        self._new.plan(rows)

    def _plan_rows(self, rows: Sequence[AttentionRow]) -> list[_RowPlan]:
        firsts = itertools.accumulate((row.num_tokens for row in rows), initial=0)
        return [self._plan_row(row, first) for row, first in zip(rows, firsts, strict=False)]

    def _plan_row(self, row: AttentionRow, first: int) -> _RowPlan:
        own = VirtualBlockTable.build([Placement(row.segment, 0, row.segment.filled)], self._pool.block_size)
        own_runs = (Run(run.slot, run.length, run.start + row.table.tokens, 0) for run in own.runs)
        runs = (*row.table.runs, *own_runs)
        deltas = sorted({run.delta for run in runs} | {0}, key=lambda delta: (delta != 0, delta))
        asked = range(row.position, row.position + row.num_tokens)
        rotations = self._new.rotations([position - delta for delta in deltas for position in asked])
        cut = _cut(runs, (*row.pieces, row.table.tokens)) if row.pieces else ()
        starts = np.searchsorted((*row.pieces, row.table.tokens), [run.start for run in cut], side="right") - 1
        return _RowPlan(
            first=first,
            count=row.num_tokens,
            position=row.position,
            runs=_Runs(runs, tuple(deltas.index(run.delta) for run in runs)),
            copies=len(deltas),
            rotations=tuple(rotation.split(len(deltas)) for rotation in rotations),
            watched=_Runs(cut, tuple(deltas.index(run.delta) for run in cut)),
            piece=torch.tensor(starts, dtype=torch.int64, device=self._pool.keys[0].device),
            read=torch.zeros(len(row.pieces) + 1, row.num_tokens, device=self._pool.keys[0].device),
        )

    def read(self) -> list[NDArray[np.float16] | None]:
        return [
            (row.read[:-1] / len(self._watched)).half().cpu().numpy() if row.watched.runs and self._watched else None
            for row in self._watched_rows
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = self._new.write(layer, k, v)
        # what is read of a piece in the same step shows only where rows are attended to one by one
        rows = self._watched_rows if self._watched_rows and layer in self._watched else self._rows
        attended = [self._attend_row(layer, row, q, k, v) for row in rows]
        return torch.cat(attended) if len(attended) > 1 else attended[0]

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._new.write(layer, k, v)

    def _attend_row(self, layer: int, row: _RowPlan, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        new = slice(row.first, row.first + row.count)
        spec = self._layers[layer]
        queries = self._rotated_queries(spec, row, q[new])
        parts = [self._attend_new(spec, queries[0], k[new].transpose(0, 1), v[new].transpose(0, 1))]
        if spec.sinks is not None:
            parts.append((torch.zeros_like(parts[0][0]), spec.sinks[:, None].expand(-1, row.count)))
        before = len(parts)
        watched = bool(row.watched.runs) and layer in self._watched
        runs = row.watched if watched else row.runs
        found = [
            self._attend_run(layer, row, run, queries[turn]) for run, turn in zip(runs.runs, runs.turn, strict=True)
        ]
        parts += [one for one in found if one is not None]
        if not watched or len(parts) == before:
            return merge(parts).transpose(0, 1)
        weights = shares(parts)
        pieces = [index for index, one in enumerate(found) if one is not None]
        row.read.index_add_(0, row.piece[pieces], weights[before:].mean(1))
        return merge(parts, weights).transpose(0, 1)

    def _rotated_queries(self, spec: LayerSpec, row: _RowPlan, q: Tensor) -> list[Tensor]:
        """A copy of q [n, heads, d] per Δ of the row, as [heads, n, d], each rotated once from the original."""
        if spec.rotary is None:
            return [q.transpose(0, 1).contiguous()] * row.copies
        return rotate_by_each(q, row.rotations[spec.rotary])

    def _attend_new(self, spec: LayerSpec, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The new tokens among themselves, read from where they were just computed."""
        count, window = q.shape[1], spec.window
        if window is None or count <= window:
            return attend(q, k, v, scale=spec.scale, softcap=spec.softcap, causal=count > 1)
        index = torch.arange(count, device=q.device)
        behind = index[:, None] - index
        allowed = (behind >= 0) & (behind < window)
        return attend(q, k, v, scale=spec.scale, softcap=spec.softcap, allowed=allowed)

    def _attend_run(self, layer: int, row: _RowPlan, run: Run, q: Tensor) -> tuple[Tensor, Tensor] | None:
        """The new tokens over one earlier run; None if the window leaves nothing of it in sight."""
        spec = self._layers[layer]
        window = spec.window
        # the first query sees farthest back: keys before this global position are of no use to any
        lost = 0 if window is None else max(0, row.position - window + 1 - run.start)
        if lost >= run.length:
            return None
        slots = slice(run.slot + lost, run.slot + run.length)
        k, v = self._pool.read(layer, slots, q.dtype)
        allowed = None
        if window is not None and row.position + row.count - 1 - (run.start + lost) >= window:
            asked = torch.arange(row.position, row.position + row.count, device=q.device)
            seen = torch.arange(run.start + lost, run.start + run.length, device=q.device)
            allowed = asked[:, None] - seen < window
        return attend(q, k, v, scale=spec.scale, softcap=spec.softcap, allowed=allowed)


def _cut(runs: Sequence[Run], places: Sequence[int]) -> tuple[Run, ...]:
    """The runs, parted at these global positions."""
    parted: list[Run] = []
    for run in runs:
        inside = sorted({place for place in places if run.start < place < run.start + run.length})
        for start, end in itertools.pairwise((run.start, *inside, run.start + run.length)):
            parted.append(Run(run.slot + start - run.start, end - start, start, run.delta))
    return tuple(parted)
