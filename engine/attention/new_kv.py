"""The KV that a step brings: where each new token's goes, and how its keys are turned before that.

Shared by the backends that write by torch's own operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.attention.base import AttentionRow
from engine.kv.pool import KVPool
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable, Rotation


class NewKV:
    """The new tokens of the step that was planned last."""

    def __init__(self, pool: KVPool, rotary: Sequence[RotaryTable], layers: Sequence[LayerSpec]) -> None:
        self._pool = pool
        self._rotary = rotary
        self._layers = layers
        self._slots = torch.empty(0, dtype=torch.int64)
        self._rotations: tuple[Rotation, ...] = ()

    def plan(self, rows: Sequence[AttentionRow]) -> None:
        """The tokens of all rows come concatenated, in this order."""
        slots: list[int] = []
        positions: list[int] = []
        for row in rows:
            slots += row.segment.slots(row.segment.filled, row.num_tokens, self._pool.block_size)
            positions += range(row.position, row.position + row.num_tokens)
        self._slots = self._indices(slots)
        self._rotations = self.rotations(positions)

    def rotations(self, positions: list[int]) -> tuple[Rotation, ...]:
        """To these positions, one for each rotary table."""
        indices = self._indices(positions)
        return tuple(table.at(indices) for table in self._rotary)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v [T, kv_heads, head_dim], which are not turned yet.

        Returns both as the pool keeps them, so that it makes no difference which tokens a step brings together.
        """
        rotary = self._layers[layer].rotary
        if rotary is not None:
            k = self._rotations[rotary].apply(k)
        return self._pool.write(layer, self._slots, k, v)

    def _indices(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._pool.keys[0].device)
