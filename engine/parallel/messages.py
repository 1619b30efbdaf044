"""What rank 0 tells its followers, and they it. Plain data, pickled into a pipe between processes of one user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.attention.row_keys import IntArray
from engine.attention.step_plan import StepPlan
from engine.config import EngineConfig
from engine.models.decoder import Decoder
from engine.models.progress import Progress
from engine.parallel.group import Group

LoadShard = Callable[[Group, Progress | None], tuple[Decoder, bytes]]
"""Loads the shard of one rank onto its device, with the whole model's fingerprint; it can be pickled."""


@dataclass(frozen=True)
class Start:
    """Join the group whose store listens at `port`, as `rank`, and load what `device` (its name) shall hold."""

    config: EngineConfig
    load: LoadShard
    port: int
    rank: int
    device: str


@dataclass(frozen=True)
class Here:
    """A follower's first word: the store is reached, and the device can be used."""


@dataclass(frozen=True)
class Prepare:
    """Compile all kernels, and capture graphs for steps of `sizes` tokens."""

    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GraphStep:
    """Replay the graph for `tokens` places and tiles of `block_m` rows with `data`, a packed plan."""

    tokens: int
    block_m: int
    data: IntArray


@dataclass(frozen=True, eq=False)
class EagerStep:
    """Compute a step without a graph.

    Attributes:
        tokens, positions: int64 [T].
        wanted: int64 [n], the tokens behind which logits are wanted.
    """

    plan: StepPlan
    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    wanted: NDArray[np.int64]


@dataclass(frozen=True)
class Failed:
    """A follower's last word: why it ends."""

    reason: str
