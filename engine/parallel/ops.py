"""The decoder's operations over a shard of the weights: those of one device, and sums over all ranks.

Two sums per layer, where heads and where the MLP's inner columns come together. Knows nothing of processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.models.decoder_ops import DecoderOps

if TYPE_CHECKING:
    from engine.parallel.group import Group


class ParallelOps:
    """See `DecoderOps`; `weight` of `add_linear_`, and `head`, are this rank's columns and rows of the whole ones.

    Args:
        ops: what one device computes with.
        vocab_size: rows of the whole head.
    """

    def __init__(self, ops: DecoderOps, group: Group, vocab_size: int) -> None:
        self._ops = ops
        self._group = group
        self._vocab_size = vocab_size
        self._vocabulary = group.shard.part(vocab_size)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._ops.norm(x, weight)

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._ops.norm_linear(x, norm, weight, bias)

    def norm_gated(self, x: Tensor, norm: Tensor, gate_up: Tensor, bias: Tensor | None) -> Tensor:
        return self._ops.norm_gated(x, norm, gate_up, bias)

    def add_linear_(self, total: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Rank 0 brings what is in `total` already, and the bias."""
        if self._group.rank:
            total.zero_()
        self._ops.add_linear_(total, x, weight, bias)
        self._group.sum_(total)

    def norm_heads(self, q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor) -> tuple[Tensor, Tensor]:
        return self._ops.norm_heads(q, k, q_norm, k_norm)

    def logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        """A sum, too: each rank brings its part of the vocabulary and zeros, however many tokens that has."""
        logits = hidden.new_zeros(len(hidden), self._vocab_size, dtype=torch.float32)
        logits[:, self._vocabulary] = self._ops.logits(hidden, head)
        self._group.sum_(logits)
        return logits
