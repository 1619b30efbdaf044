"""The tensors that hold all keys and values. Knows slots, not what is in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVPool:
    """Keys and values of every layer, slot by slot.

    Attributes:
        keys, values: per layer a tensor [kv_heads, num_blocks · block_size, head_dim] of the model's dtype; heads and
            their size may differ from layer to layer. Heads come first, so that a run of slots is a view whose rows
            lie together.
        tokens_written: how many tokens' KV was ever written; re-arranging a composition must not raise it.
    """

    def __init__(
        self,
        heads: Sequence[tuple[int, int]],
        num_blocks: int,
        block_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`heads` has kv_heads and head_dim of each layer."""
        shapes = [(kv_heads, num_blocks * block_size, head_dim) for kv_heads, head_dim in heads]
        # torch.empty leaves the pages of a CPU pool untouched until they are used
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.tokens_written = 0

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store `keys` (rotated) and `values`, each [T, kv_heads, head_dim], in `slots`, int64 [T]."""
        self.keys[layer].index_copy_(1, slots, keys.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, values.transpose(0, 1))
        self.tokens_written += len(slots) if layer == 0 else 0
