"""The interface of attention: write the new keys and values, attend over a virtual block table.

A backend is planned once per step on the host, then called once per layer. It knows nothing of chunks or contexts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.kv.segment import Segment
from engine.kv.virtual_block_table import VirtualBlockTable


@dataclass(frozen=True)
class AttentionRow:
    """The new tokens of one sequence in a step.

    Attributes:
        table: everything before `segment`.
        segment: receives the new tokens' KV, behind its `filled` tokens; it stands where it is computed (Δ = 0),
            directly behind the table, and has blocks for the new tokens.
        num_tokens: how many new tokens, ≥ 1.
        state: what a model with a recurrent state carries up to the first new token; None at the beginning.
        pieces: where in the table each piece begins whose share of attention is wanted, ascending from 0.

    Rows of one step may belong to one sequence: `table` of a later one then holds the segments of those before it,
    whose KV is written in this step before anything is attended to.
    """

    table: VirtualBlockTable
    segment: Segment
    num_tokens: int
    state: object | None = None
    pieces: tuple[int, ...] = ()

    @property
    def position(self) -> int:
        """Global position of the first new token."""
        return self.table.tokens + self.segment.filled


@dataclass(frozen=True)
class RowResult:
    """What a step leaves of a row besides KV.

    Attributes:
        state: as `AttentionRow.state`, behind the last new token.
        read: float16 [pieces, num_tokens], the share of attention that each new token paid to each of the row's
            pieces, mean over this device's heads and some layers; None if the row named none, or the backend can't
            tell.
    """

    state: object | None = None
    read: NDArray[np.float16] | None = None


class AttentionBackend(ABC):
    """Attention of one model on one device.

    `plan` must be called before the layers of a step, and `segment.filled` must not change before the last of them.
    A token attends to every token whose global position is not greater than its own (and within the layer's window).
    """

    @abstractmethod
    def plan(self, rows: Sequence[AttentionRow]) -> None:
        """Prepare a step; the new tokens of all rows come concatenated, in this order."""

    def read(self) -> list[NDArray[np.float16] | None]:
        """For each row of the step that was just computed what `RowResult.read` says; None where it can't tell."""
        return []

    @abstractmethod
    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write k and v, return attention's output.

        q is [T, heads, head_dim], k and v are [T, kv_heads, head_dim], all before RoPE; the result is like q.
        """

    @abstractmethod
    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write k and v of the model's last layer, where nobody needs its output."""
