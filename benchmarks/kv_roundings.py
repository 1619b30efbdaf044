"""Roundings of KV that the engine's pools don't do, to find out which of them would be worth it. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kv.pool import KVPool

Round = Callable[[Tensor], Tensor]

_GROUP = 32
"""Tokens that share a channel's scale, as in KIVI (arXiv 2402.02750)."""


@dataclass(frozen=True)
class Rounding:
    """What becomes of keys (rotated) and values [T, kv_heads, head_dim] on their way into a pool."""

    name: str
    keys: Round
    values: Round


class RoundingPool(KVPool):
    """A pool of the model's dtype whose numbers were rounded as an 8-bit one would; only for `TorchAttention`."""

    rounding: Rounding

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        rounded = self.rounding.keys(keys).to(keys.dtype), self.rounding.values(values).to(values.dtype)
        return super().write(layer, slots, *rounded)


def as_it_is(x: Tensor) -> Tensor:
    return x


def fp8(x: Tensor) -> Tensor:
    """Float8 e4m3 with a scale for each token and head."""
    scale = _scale(x.float().abs().amax(-1, keepdim=True), 448)
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


def int8(x: Tensor) -> Tensor:
    """Whole numbers up to 127 with a scale for each token and head."""
    scale = _scale(x.float().abs().amax(-1, keepdim=True), 127)
    return (x / scale).round() * scale


def int8_by_channel(x: Tensor) -> Tensor:
    """The same with a scale for each channel of a few tokens, which have to be known together."""
    return torch.cat([_by_channel(part) for part in torch.split(x, _GROUP)])


def _by_channel(x: Tensor) -> Tensor:
    scale = _scale(x.float().abs().amax(0, keepdim=True), 127)
    return (x / scale).round() * scale


def _scale(largest: Tensor, most: float) -> Tensor:
    return (largest / most).clamp_min(1e-12)


ROUNDINGS = (
    Rounding("keys fp8, values as they are", fp8, as_it_is),
    Rounding("keys as they are, values fp8", as_it_is, fp8),
    Rounding("keys int8, values fp8", int8, fp8),
    Rounding("keys int8 by channel, values int8", int8_by_channel, int8),
)
