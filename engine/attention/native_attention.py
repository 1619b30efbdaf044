"""What stands in for the `torch` backend on CPUs where C attends quicker.

A layer is one call for all rows that go on from each other. Runs, windows, new tokens among themselves and what is read
of each piece are all in that call (`src/many.c`).
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
from engine.attention.joined_rows import in_groups
from engine.attention.new_kv import NewKV
from engine.attention.seen_runs import parted, pieces_of, seen_runs
from engine.attention.watched import watched_layers
from engine.kv.pool import KVPool
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable, Rotation
from engine.native.many import SPAN, Cache, Many, Seen


@dataclass(frozen=True)
class _Plan:
    """Rows that go on from each other: tokens [first, first + count) of the step, all of which see the same spans.

    Attributes:
        spans: those of a piece together, and of a piece those of one turn, so that queries are turned seldom.
        by_turn: the same, those of one turn together.
        rotations: per rotary table one for [turns · count] positions.
        pieces: how many there are.
        read: float32 [pieces, count], summed over the watched layers.
    """

    rows: list[AttentionRow]
    first: int
    count: int
    spans: NDArray[np.void]
    by_turn: NDArray[np.void]
    rotations: tuple[Rotation, ...]
    pieces: int
    read: Tensor


class NativeAttention(AttentionBackend):
    """For models that `find_many` has something for; no layer may have a soft cap or sinks."""

    def __init__(self, pool: KVPool, rotary: Sequence[RotaryTable], layers: Sequence[LayerSpec], many: Many) -> None:
        self._pool = pool
        self._layers = layers
        self._many = many
        self._new = NewKV(pool, rotary, layers)
        self._watched = watched_layers(len(layers))
        self._plans: list[_Plan] = []

    def plan(self, rows: Sequence[AttentionRow]) -> None:
        groups = in_groups(rows)
        counts = [sum(row.num_tokens for row in group) for group in groups]
        firsts = itertools.accumulate(counts, initial=0)
        self._plans = [self._plan(*each) for each in zip(groups, firsts, counts, strict=False)]
        self._new.plan(rows)

    def _plan(self, group: list[AttentionRow], first: int, count: int) -> _Plan:
        runs = seen_runs(group[-1], self._pool.block_size)
        noting = next((row for row in reversed(group) if row.pieces and row.table.tokens), None)
        piece = np.full(len(runs), -1, dtype=np.int32)
        if noting is not None:
            runs = parted(runs, (*noting.pieces, noting.table.tokens))
            piece = pieces_of(runs, noting.pieces, noting.table.tokens)
        deltas, turn = np.unique(runs[:, 3], return_inverse=True)
        spans = np.empty(len(runs), dtype=SPAN)
        for name, column in zip(SPAN.names or (), (*runs.T[:3], turn, piece), strict=True):
            spans[name] = column
        asked = range(group[0].position, group[0].position + count)
        pieces = len(noting.pieces) if noting is not None else 0
        rotations = self._new.rotations([position - delta for delta in deltas.tolist() for position in asked])
        by_piece, by_turn = spans[np.lexsort((turn, piece))], spans[np.argsort(turn, kind="stable")]
        return _Plan(group, first, count, by_piece, by_turn, rotations, pieces, torch.zeros(pieces, count))

    def read(self) -> list[NDArray[np.float16] | None]:
        return [read for plan in self._plans for read in self._read(plan)]

    def _read(self, plan: _Plan) -> list[NDArray[np.float16] | None]:
        means, first = plan.read / max(1, len(self._watched)), 0
        found: list[NDArray[np.float16] | None] = []
        for row in plan.rows:
            end = first + row.num_tokens
            before = sum(piece < row.table.tokens for piece in row.pieces)
            of_row = torch.zeros(len(row.pieces), row.num_tokens, dtype=torch.float16)
            of_row[:before] = means[:before, first:end]
            found.append(of_row.numpy() if before and self._watched else None)
            first = end
        return found

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._new.write(layer, k, v)
        spec = self._layers[layer]
        if q.stride()[1:] != (q.shape[2], 1):
            q = q.contiguous()
        partners = q if spec.rotary is None else self._plans[0].rotations[spec.rotary].partners(q)
        mixed = torch.empty(q.shape, dtype=q.dtype)
        cache = Cache(self._pool.keys[layer], self._pool.values[layer], spec.scale, spec.window)
        for plan in self._plans:
            new = slice(plan.first, plan.first + plan.count)
            seen = self._seen(layer, plan)
            shares = self._many.attend(cache, seen, q[new], partners[new], mixed[new])
            if seen.pieces:
                plan.read.add_(shares.mean(1))
        return mixed

    def _seen(self, layer: int, plan: _Plan) -> Seen:
        rotary = self._layers[layer].rotary
        turned = None if rotary is None else (plan.rotations[rotary].cos, plan.rotations[rotary].sin)
        position = plan.rows[0].position
        if plan.pieces and layer in self._watched:
            return Seen(position, plan.spans, turned, plan.pieces)
        return Seen(position, plan.by_turn, turned)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._new.write(layer, k, v)
