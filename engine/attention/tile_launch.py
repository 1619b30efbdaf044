"""How `attend_kernel` is launched: with as many stages as help, and as the chip's shared memory has room for.

Knows sizes, nothing of devices or Triton; what was quickest was found on an H100.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.attention.step_plan import TILE

_ASIDE = 8 << 10
"""Bytes that a kernel needs besides queries, keys and values."""


@dataclass(frozen=True)
class TileLaunch:
    """`warps` of a program, and tiles of keys and values (`stages`) that are under way at a time."""

    warps: int
    stages: int


def tile_launch(block_m: int, head_dim: int, itemsize: int, shared_memory: int) -> TileLaunch | None:
    """For tiles of `block_m` rows and heads of `head_dim` numbers of `itemsize` bytes; None if one is too large.

    Args:
        shared_memory: bytes that a program may have.
    """
    wanted = 1 if itemsize > 2 else 2 if block_m == 16 or head_dim > 128 else 3
    stage = 2 * TILE * head_dim * itemsize
    stages = min(wanted, (shared_memory - _ASIDE - block_m * head_dim * itemsize) // stage)
    return TileLaunch(4 if block_m <= 64 else 8, stages) if stages > 0 else None
