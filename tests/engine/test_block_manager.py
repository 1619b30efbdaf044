"""The block pool: counts, leaks and neighborhood, under any order of taking, sharing and giving back."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.kv.block_manager import BlockManager


class BlockHistory(RuleBasedStateMachine):
    """Owners take, share and release blocks; the pool always agrees with their lists."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(24)
        self.owners: list[list[int]] = []

    @rule(count=st.integers(0, 12), after=st.none() | st.integers(0, 23))
    def allocate(self, count: int, after: int | None) -> None:
        if count > self.manager.free:
            with pytest.raises(ValueError, match="free"):
                self.manager.allocate(count, after)
            return
        blocks = self.manager.allocate(count, after)
        assert len(set(blocks)) == count
        assert not set(blocks) & {block for owner in self.owners for block in owner}
        self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        part = owner[: data.draw(st.integers(0, len(owner)))]
        self.manager.retain(part)
        self.owners.append(part)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.manager.release(self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1))))

    @invariant()
    def agrees(self) -> None:
        self.manager.check_integrity(self.owners)


TestBlockHistory = BlockHistory.TestCase


def test_prefers_the_run_behind_a_block() -> None:
    manager = BlockManager(16)
    first = manager.allocate(4)
    assert manager.allocate(3, after=first[-1]) == [first[-1] + 1, first[-1] + 2, first[-1] + 3]


def test_prefers_the_tightest_run_that_holds_all() -> None:
    manager = BlockManager(16)
    blocks = manager.allocate(16)
    manager.release(blocks[2:5])  # a hole of three
    manager.release(blocks[8:])  # a hole of eight
    assert manager.allocate(3) == blocks[2:5]
    assert manager.allocate(6) == blocks[8:14]


def test_release_and_retain_of_free_blocks_are_refused() -> None:
    manager = BlockManager(2)
    (block,) = manager.allocate(1)
    manager.release([block])
    with pytest.raises(ValueError, match="more often"):
        manager.release([block])
    with pytest.raises(ValueError, match="can't be shared"):
        manager.retain([block])
