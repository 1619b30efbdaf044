"""Which blocks of the KV pool are free, and how many owners each used one has. Knows nothing of what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class BlockManager:
    """Reference-counted block ids.

    Invariants: a block is free if and only if its count is 0; `free` equals the number of such blocks.
    """

    def __init__(self, num_blocks: int) -> None:
        self._counts: NDArray[np.int32] = np.zeros(num_blocks, dtype=np.int32)
        self.free = num_blocks

    @property
    def total(self) -> int:
        return len(self._counts)

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """Take `count` free blocks, each with one owner; the caller has made sure that there are so many.

        Neighbouring ids are preferred, starting right behind block `after` if that is free: a run of them is
        one view of the pool, and so one matrix product on a CPU.
        """
        if count > self.free:
            raise ValueError(f"{count} blocks wanted, {self.free} free")
        chosen: list[int] = []
        for start, length in self._free_runs(count, after):
            chosen.extend(range(start, start + min(length, count - len(chosen))))
            if len(chosen) == count:
                break
        self._counts[chosen] = 1
        self.free -= count
        return chosen

    def _free_runs(self, count: int, after: int | None) -> list[tuple[int, int]]:
        """Free runs as (start, length): the one behind `after`, then the tightest that holds all, then by size."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], self._counts == 0, [0])).astype(np.int8)))
        runs = [(int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2], strict=True)]

        def rank(run: tuple[int, int]) -> tuple[bool, bool, int]:
            start, length = run
            fits = length >= count
            return (after is None or start != after + 1, not fits, length if fits else -length)

        return sorted(runs, key=rank)

    def retain(self, blocks: Sequence[int]) -> None:
        """Add one owner to each block; all must be in use."""
        if any(self._counts[block] == 0 for block in blocks):
            raise ValueError("a free block can't be shared")
        for block in blocks:
            self._counts[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Take one owner from each block; those left without one are free again."""
        for block in blocks:
            if self._counts[block] == 0:
                raise ValueError(f"block {block} was released more often than taken")
            self._counts[block] -= 1
            self.free += int(self._counts[block] == 0)

    def check_integrity(self, owners: Iterable[Sequence[int]]) -> None:
        """Assert that the counts equal how often the blocks occur in `owners`: no leak, no double free."""
        expected = Counter(block for blocks in owners for block in blocks)
        actual = {int(block): int(self._counts[block]) for block in np.flatnonzero(self._counts)}
        assert actual == dict(expected), "block counts differ from their owners"
        assert self.free == self.total - len(actual), "the number of free blocks is wrong"
