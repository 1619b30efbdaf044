"""RoPE: a model's frequencies, and a table of cosines and sines that rotates queries and keys to positions.

Each scaling type is transformers' own function; only types whose frequencies never depend on the length are taken,
because KV is used again at other positions. Knows nothing of attention or blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        sin: float32 [T, 1, head_dim], with the sign of each dim, which makes the rotation one multiply-add.
        partner: the dim that each is turned with, int64 [head_dim]; None for the one half a head away.
    """

    cos: Tensor
    sin: Tensor
    partner: Tensor | None = None

    def head(self, count: int) -> Rotation:
        """The rotation of the first `count` positions."""
        return Rotation(self.cos[:count], self.sin[:count], self.partner)

    def split(self, count: int) -> list[Rotation]:
        """So many rotations of equally many positions, one behind the other."""
        parts = zip(self.cos.chunk(count), self.sin.chunk(count), strict=True)
        return [Rotation(cos, sin, self.partner) for cos, sin in parts]

    def apply(self, x: Tensor) -> Tensor:
        """x [T, heads, head_dim], rotated; computed in float32, returned in x's dtype."""
        wide = x.float()
        return torch.addcmul(wide * self.cos, self.partners(wide), self.sin).to(x.dtype)

    def partners(self, x: Tensor) -> Tensor:
        """x [T, heads, head_dim] with the dim that each is turned with in its place; contiguous."""
        return x.roll(x.shape[-1] // 2, -1) if self.partner is None else x.index_select(-1, self.partner)


def rotate_by_each(x: Tensor, rotations: Sequence[Rotation]) -> list[Tensor]:
    """x [T, heads, head_dim] by each of these rotations of one table, [heads, T, head_dim] and contiguous.

    As `Rotation.apply`, but what they have in common is done once.
    """
    wide = x.transpose(0, 1).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    swapped = rotations[0].partners(wide)
    turned = []
    for rotation in rotations:
        cos, sin = rotation.cos.transpose(0, 1), rotation.sin.transpose(0, 1)
        turned.append((wide * cos).addcmul_(swapped, sin).to(x.dtype))
    return turned


@dataclass(frozen=True)
class Pairing:
    """Which dims of a head turn together, how fast and which way: dim i becomes x[i]·cos + sign[i]·x[partner[i]]·sin.

    Attributes:
        column: the column of the table that holds dim i's cosine and sine; None where the dim is not rotated.
        partner: the other dim of the pair.
        sign: 1, −1, or 0 where the dim is not rotated.
    """

    column: tuple[int | None, ...]
    partner: tuple[int, ...]
    sign: tuple[int, ...]

    @classmethod
    def halves(cls, head_dim: int) -> Pairing:
        """Llama's: dim i turns with dim i + head_dim / 2."""
        half = head_dim // 2
        columns, signs = tuple(range(half)), (1,) * half
        return cls(columns * 2, tuple(range(half, head_dim)) + columns, tuple(-sign for sign in signs) + signs)

    @property
    def is_halves(self) -> bool:
        return self.partner == Pairing.halves(len(self.partner)).partner


class RotaryTable:
    """Cosines and sines of positions 0 … length - 1.

    Attributes:
        cos, sin: float32 [length, columns], attention factor folded in; the dims that use a column are the pairing's.
            If some dims are not rotated, a last column of ones and zeros is theirs.
        column, partner, sign: the pairing's, int64, int64 and float32 [head_dim].
        rotates_a_part: whether some dims are not rotated.
    """

    def __init__(self, cos: Tensor, sin: Tensor, pairing: Pairing) -> None:
        """cos and sin are float32 [length, columns], without that last column."""
        rest = cos.shape[1]
        self.rotates_a_part = None in pairing.column
        if self.rotates_a_part:
            cos = torch.cat((cos, torch.ones_like(cos[:, :1])), 1)
            sin = torch.cat((sin, torch.zeros_like(sin[:, :1])), 1)
        self.cos, self.sin = cos, sin
        columns = [rest if column is None else column for column in pairing.column]
        self.column = torch.tensor(columns, dtype=torch.int64, device=cos.device)
        self.sign = torch.tensor(pairing.sign, dtype=torch.float32, device=cos.device)
        self.partner = torch.tensor(pairing.partner, dtype=torch.int64, device=cos.device)
        self._swap = None if pairing.is_halves else self.partner

    @classmethod
    def of(cls, frequencies: RopeFrequencies, length: int, device: torch.device) -> RotaryTable:
        """Llama's rotation. Angles are float32 products like transformers', so keys rotated here are those of it."""
        inverse = torch.tensor(frequencies.inverse, dtype=torch.float32, device=device)
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * inverse
        factor = frequencies.attention_factor
        return cls(angles.cos() * factor, angles.sin() * factor, Pairing.halves(2 * len(inverse)))

    def at(self, positions: Tensor) -> Rotation:
        """Gather the rows of `positions`, int64 [T]; each must lie in the table (IndexError on the CPU)."""
        cos = self.cos.index_select(0, positions).index_select(1, self.column)
        sin = self.sin.index_select(0, positions).index_select(1, self.column).mul_(self.sign)
        return Rotation(cos[:, None], sin[:, None], self._swap)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate x [T, heads, head_dim] to `positions`, int64 [T]; computed in float32, returned in x's dtype."""
        return self.at(positions).apply(x)


def _default_inverse(config: Any) -> Tensor:
    """Unscaled RoPE, which each model of transformers defines for itself in these same words."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    inverse: Tensor = 1.0 / (config.rope_parameters["rope_theta"] ** exponents)
    return inverse
