"""What a segment takes over from another that begins as it does: whole blocks, and copies of one that was begun."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import Engine
from engine.errors import OutOfMemoryError
from engine.hashing import token_array
from engine.kv.block_manager import BlockManager
from engine.kv.pool import SCALED_DTYPES, KVPool
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from tests.engine.test_parity import ask_and_compare, config
from tests.tiny_models import FAMILIES, tiny_model

SIZE = 16


class Copies:
    """A store of so many blocks, and what it has copied: first slot, where to, how many."""

    def __init__(self, blocks: int) -> None:
        self.made: list[tuple[int, int, int]] = []
        copy = lambda *slots: self.made.append(slots)  # noqa: E731
        self.store = SegmentStore(BlockManager(blocks), SIZE, lambda: frozenset(), copy=copy)

    def computed(self, tokens: int) -> Segment:
        """A stored segment of tokens 0, 1, …, all of which were computed, that nobody has pinned."""
        segment = self.store.open(b"", token_array(range(tokens)), 0)
        segment.filled = tokens
        self.store.unpin(segment)
        return segment


@given(length=st.integers(1, 70), common=st.integers(0, 70), more=st.integers(1, 40))
def test_what_is_the_same_is_not_computed_again(length: int, common: int, more: int) -> None:
    copies, common = Copies(16), min(common, length)
    donor = copies.computed(length)
    tokens = token_array([*range(common), *range(1000, 1000 + more)])
    ready = copies.store.ready(b"", tokens)
    segment = copies.store.open(b"", tokens, 0)
    begun = common % SIZE
    assert segment.filled == ready == (common if begun >= 8 else common - begun)
    assert segment.blocks[: common // SIZE] == donor.blocks[: common // SIZE]
    if segment.filled % SIZE:
        assert copies.made == [(donor.blocks[common // SIZE] * SIZE, segment.blocks[common // SIZE] * SIZE, begun)]
    else:
        assert not copies.made
    copies.store.check_integrity(pins=[segment])


def test_what_has_to_make_room_is_copied_all_the_same() -> None:
    copies = Copies(3)
    donor = copies.computed(SIZE + 12)
    source = donor.blocks[1]
    segment = copies.store.open(b"", token_array([*range(SIZE + 12), *range(100, 120)]), 0)
    assert copies.store.get(donor.key) is None, "it had to go"
    assert segment.filled == SIZE + 12
    assert copies.made == ([] if segment.blocks[1] == source else [(source * SIZE, segment.blocks[1] * SIZE, 12)])
    copies.store.check_integrity(pins=[segment])


def test_without_room_nothing_is_held() -> None:
    copies = Copies(3)
    donor = copies.computed(SIZE + 12)
    copies.store.pin(donor)
    with pytest.raises(OutOfMemoryError):
        copies.store.open(b"", token_array([*range(SIZE + 12), *range(100, 150)]), 0)
    assert (copies.made, copies.store.blocks.free) == ([], 1)
    copies.store.check_integrity(pins=[donor])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *SCALED_DTYPES.values()])
def test_copies_are_read_as_what_they_were_made_of(dtype: torch.dtype) -> None:
    pool = KVPool([(2, 16), (1, 32)], 4, SIZE, dtype=dtype, device=torch.device("cpu"))
    written = [torch.randn(5, heads, size) for heads, size in ((2, 16), (1, 32))]
    for layer, numbers in enumerate(written):
        numbers = numbers.to(dtype) if not pool.scaled else numbers
        pool.write(layer, torch.arange(20, 25), numbers, 2 * numbers)
    pool.copy(20, 40, 5)
    for layer in range(2):
        for copied, source in zip(
            pool.read(layer, slice(40, 45), torch.float32), pool.read(layer, slice(20, 25), torch.float32), strict=True
        ):
            assert torch.equal(copied, source)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_line_more_is_all_that_is_computed(family: str) -> None:
    folder: Path = tiny_model(family)
    text = "".join(f"def f{number}():\n    return {number}\n" for number in range(12))
    with Engine(config(folder)) as engine:
        context = engine.context("files")
        context.add_chunk(text, source="a.py")
        ask_and_compare(engine, folder, context, "What is it?")
        context.add_chunk(f"{text}DONE = 1\n", source="a.py")
        tail = len(context.prompt_tokens("What is it?", fidelity="exact")) - context.chunks()[0].tokens
        done = ask_and_compare(engine, folder, context, "What is it?")
        if not engine._state.store.stateful:
            assert done.usage.prefilled_tokens <= tail + 40
