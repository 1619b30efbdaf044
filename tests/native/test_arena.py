"""Where packed weights are copied to: alignment, and memory that can have huge pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from engine.native.arena import Arena

MAPS = Path("/proc/self/smaps")


def test_copies_are_equal_and_aligned() -> None:
    tensors = [torch.arange(count, dtype=torch.uint8) for count in (1, 64, 100)]
    arena = Arena(len(tensors), sum(map(len, tensors)))
    copies = [arena.copy(tensor) for tensor in tensors]
    for tensor, copied in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copied)
        assert copied.data_ptr() % 64 == 0


@pytest.mark.skipif(not MAPS.exists(), reason="needs /proc")
def test_huge_pages_are_asked_for_where_most_systems_give_them() -> None:
    """That is for private memory: `sh` among the flags would mean shared, `hg` is the advice."""
    copied = Arena(1, 1 << 22).copy(torch.ones(1 << 22, dtype=torch.uint8))
    address = copied.data_ptr()
    for found in re.finditer(
        r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags:(.*?)$", MAPS.read_text(), re.DOTALL | re.MULTILINE
    ):
        if int(found[1], 16) <= address < int(found[2], 16):
            flags = found[3].split()
            assert ("sh" in flags, "hg" in flags) == (False, True)
            return
    raise AssertionError("the memory is not mapped")
