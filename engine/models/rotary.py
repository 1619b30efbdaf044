"""RoPE: a model's frequencies, and a table of cosines and sines that rotates queries and keys to positions.

Each scaling type is transformers' own function; only types whose frequencies never depend on the length are taken,
because KV is used again at other positions. Knows nothing of attention or blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine.errors import UnsupportedModelError

SCALING_TYPES = ("linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeFrequencies:
    """What defines a rotation: pair i of a head turns by `inverse[i]` radians per position.

    Attributes:
        inverse: float32 values, head_dim / 2 of them.
        attention_factor: both cosine and sine are multiplied by it (YaRN; 1.0 elsewhere).
    """

    inverse: tuple[float, ...]
    attention_factor: float

    @classmethod
    def from_transformers(cls, config: Any) -> RopeFrequencies:
        """Read them from a transformers config; UnsupportedModelError if they depend on length or leave dims out."""
        parameters = config.rope_parameters
        kind = parameters.get("rope_type")
        if kind != "default" and kind not in SCALING_TYPES:
            raise UnsupportedModelError(
                f"RoPE type {kind or parameters!r} is not supported; supported are default, {', '.join(SCALING_TYPES)}"
            )
        if parameters.get("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedModelError("models that rotate only a part of each head are not supported")
        if kind == "default":
            return cls(tuple(_default_inverse(config).tolist()), 1.0)
        inverse, factor = ROPE_INIT_FUNCTIONS[kind](config)
        return cls(tuple(inverse.tolist()), float(factor))


@dataclass(frozen=True)
class Rotation:
    """The rows of a table for some positions, gathered once and used in every layer.

    Attributes:
        cos: float32 [T, 1, head_dim].
        sin: float32 [T, 1, head_dim]; the first half is negated, which makes the rotation one multiply-add.
    """

    cos: Tensor
    sin: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """x [T, heads, head_dim], rotated; computed in float32, returned in x's dtype."""
        wide = x.float()
        swapped = wide.roll(x.shape[-1] // 2, -1)
        return torch.addcmul(wide * self.cos, swapped, self.sin).to(x.dtype)


class RotaryTable:
    """Cosines and sines of positions 0 … length - 1.

    Attributes:
        cos, sin: float32 [length, head_dim / 2], attention factor folded in. Angles are float32 products like
            transformers', so keys rotated here are those of transformers.
    """

    def __init__(self, frequencies: RopeFrequencies, length: int, device: torch.device) -> None:
        inverse = torch.tensor(frequencies.inverse, dtype=torch.float32, device=device)
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * inverse
        self.cos = angles.cos() * frequencies.attention_factor
        self.sin = angles.sin() * frequencies.attention_factor

    def at(self, positions: Tensor) -> Rotation:
        """Gather the rows of `positions`, int64 [T]; each must lie in the table (IndexError on the CPU)."""
        cos = self.cos.index_select(0, positions)
        sin = self.sin.index_select(0, positions)
        return Rotation(torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None])

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate x [T, heads, head_dim] to `positions`, int64 [T]; computed in float32, returned in x's dtype."""
        return self.at(positions).apply(x)


def _default_inverse(config: Any) -> Tensor:
    """Unscaled RoPE, which each model of transformers defines for itself in these same words."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    inverse: Tensor = 1.0 / (config.rope_parameters["rope_theta"] ** exponents)
    return inverse
