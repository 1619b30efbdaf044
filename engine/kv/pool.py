"""The tensors that hold all keys and values. Knows slots, not what is in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SCALED_DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""What KV can be kept as in a byte per number, by the names that `EngineConfig.kv_dtype` has for it."""


class KVPool:
    """Keys and values of every layer, slot by slot.

    Attributes:
        keys, values: per layer a tensor [kv_heads, num_blocks · block_size, head_dim]; heads and their size may differ
            from layer to layer. Heads come first, so that a run of slots is a view whose rows lie together.
        scaled: they have 8 bits, and each token's head has a scale that its numbers are to be multiplied with.
        largest: the largest number that such a scaled one may be.
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
        """`heads` has kv_heads and head_dim of each layer; `dtype` is the model's, or one of `SCALED_DTYPES`."""
        self.slots = num_blocks * block_size
        shapes = [(kv_heads, self.slots, head_dim) for kv_heads, head_dim in heads]
        # torch.empty leaves the pages of a CPU pool untouched until they are used
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.scaled = dtype in SCALED_DTYPES.values()
        self.largest = _largest(dtype)
        of_scales = [shape[:2] if self.scaled else (1, 1) for shape in shapes]
        self._key_scales = [torch.empty(shape, dtype=torch.float32, device=device) for shape in of_scales]
        self._value_scales = [torch.empty(shape, dtype=torch.float32, device=device) for shape in of_scales]
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.tokens_written = 0

    def scales(self, layer: int) -> tuple[Tensor, Tensor]:
        """Scales of keys and of values, float32 [kv_heads, slots]; without meaning unless the pool is scaled."""
        return self._key_scales[layer], self._value_scales[layer]

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` (rotated) and `values`, each [T, kv_heads, head_dim], in `slots`, int64 [T].

        Returns both as whoever reads them from here gets them, in the shape and dtype they came in.
        """
        self.tokens_written += len(slots) if layer == 0 else 0
        if self.scaled:
            k_scales, v_scales = self.scales(layer)
            stored_keys = _write_scaled(self.keys[layer], k_scales, slots, keys)
            return stored_keys, _write_scaled(self.values[layer], v_scales, slots, values)
        self.keys[layer].index_copy_(1, slots, keys.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, values.transpose(0, 1))
        return keys, values

    def read(self, layer: int, slots: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of consecutive slots, [kv_heads, n, head_dim]: views, or if the pool is scaled as `dtype`."""
        k, v = self.keys[layer][:, slots], self.values[layer][:, slots]
        if not self.scaled:
            return k, v
        k_scales, v_scales = (scales[:, slots, None] for scales in self.scales(layer))
        return (k.float() * k_scales).to(dtype), (v.float() * v_scales).to(dtype)

    def copy(self, source: int, target: int, count: int) -> None:
        """Make `count` slots from `target` on hold what those from `source` on do; the two don't overlap."""
        for tensors in (self.keys, self.values, *((self._key_scales, self._value_scales) if self.scaled else ())):
            for tensor in tensors:
                tensor[:, target : target + count] = tensor[:, source : source + count]


def bytes_per_token(heads: Sequence[tuple[int, int]], dtype: torch.dtype) -> int:
    """What a token takes in a pool of these (kv_heads, head_dim) and dtype, its scales included."""
    scale = torch.float32.itemsize if dtype in SCALED_DTYPES.values() else 0
    return 2 * sum(kv_heads * (head_dim * dtype.itemsize + scale) for kv_heads, head_dim in heads)


def _largest(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max


def _rounded(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    return numbers.to(dtype) if dtype.is_floating_point else numbers.add(0.5).floor().to(dtype)


def _write_scaled(cache: Tensor, scales: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """Store `new` [T, kv_heads, head_dim] in a cache of 8 bits, each token's head divided by a scale of its own.

    Returns what can be read of it then.
    """
    numbers = new.transpose(0, 1).float()
    scale = (numbers.abs().amax(-1) / _largest(cache.dtype)).clamp_min(1e-12)
    rounded = _rounded(numbers / scale[..., None], cache.dtype)
    scales.index_copy_(1, slots, scale)
    cache.view(torch.uint8).index_copy_(1, slots, rounded.view(torch.uint8))  # torch copies no float8 by index
    return (rounded.float() * scale[..., None]).to(new.dtype).transpose(0, 1)
