"""How a runner's steps reach the followers. Knows nothing of questions or chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from numpy.typing import NDArray

from engine.attention.row_keys import IntArray
from engine.attention.triton_attention import TritonAttention
from engine.parallel.followers import Followers
from engine.parallel.messages import EagerStep, GraphStep, Prepare
from engine.runtime.graphs import Size


class Mirror:
    """Makes the followers compute what rank 0's runner computes with `attention`, within the same `step`."""

    def __init__(self, followers: Followers, attention: TritonAttention) -> None:
        self._followers = followers
        self._attention = attention

    def step(self) -> AbstractContextManager[None]:
        """See `Followers.together`."""
        return self._followers.together()

    @contextmanager
    def prepare(self, sizes: tuple[int, ...]) -> Iterator[None]:
        """For preparing graphs of these sizes, which takes as long as it takes to compile."""
        with self._followers.together(limit=None):
            self._followers.send(Prepare(sizes))
            yield

    def replays(self, size: Size, data: IntArray) -> None:
        """Rank 0 is about to replay the graph of `size` with this plan."""
        self._followers.send(GraphStep(size.tokens, size.block_m, data))

    def computes(self, tokens: NDArray[np.int64], positions: NDArray[np.int64], wanted: NDArray[np.int64]) -> None:
        """Rank 0 is about to compute the step that its attention has planned."""
        self._followers.send(EagerStep(self._attention.planned, tokens, positions, wanted))
