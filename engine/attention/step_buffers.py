"""Where a step's plan and what its kernels put aside are on the device. Knows nothing of who fills or reads them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.attention.step_plan import Shape


@dataclass(frozen=True)
class StepBuffers:
    """Where a step's plan and partial results are on the device.

    Attributes:
        plan: int32, a packed `StepPlan`.
        shape: what kernels are launched for.
        tokens: places for new tokens.
        part, part_lse: float32 [parts, heads, head_dim] and [parts, heads], flat, for the largest layer.
        read, lse, shares: float32, flat; empty unless something is to be noted.
        notes, longest: how many notes there are, and the most tokens of one.
    """

    plan: Tensor
    shape: Shape
    tokens: int
    part: Tensor
    part_lse: Tensor
    read: Tensor
    lse: Tensor
    shares: Tensor
    notes: int = 0
    longest: int = 0
