"""The file of packed matrices: what was saved is read, and a damaged file is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import BrokenModelError
from engine.models.packed_weights import PACKED, PackedMatrix, open_packed, save_packed
from engine.native.packing import KINDS

NAME = "model.layers.0.mlp.up_proj.weight"


def blocks(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    saved = {name: PackedMatrix(kind, blocks(2, 3, kind.block_bytes)) for name, kind in KINDS.items()}
    save_packed(saved, tmp_path)
    read = open_packed(tmp_path)
    assert read.keys() == saved.keys()
    for name, matrix in read.items():
        assert matrix.kind is KINDS[name]
        assert (matrix.rows, matrix.columns) == (32, 3 * KINDS[name].columns)
        assert matrix.data.is_contiguous()
        assert torch.equal(matrix.data, saved[name].data)


def test_what_is_forgotten_is_read_anew(tmp_path: Path) -> None:
    kind = KINDS["q4"]
    mine = PackedMatrix(kind, blocks(64, 40, kind.block_bytes))
    save_packed({NAME: mine}, tmp_path)
    read = open_packed(tmp_path)[NAME]
    for matrix in (read, mine):
        matrix.forget()
        matrix.forget()
    assert torch.equal(read.data, mine.data)
    assert torch.equal(mine.data, blocks(64, 40, kind.block_bytes)), "what no file has must stay"


def test_a_folder_without_the_file_has_none(tmp_path: Path) -> None:
    assert open_packed(tmp_path) == {}


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_file_that_was_cut_off_is_refused(size: int, tmp_path: Path) -> None:
    kind = KINDS["q4"]
    save_packed({NAME: PackedMatrix(kind, blocks(1, 1, kind.block_bytes))}, tmp_path)
    os.truncate(tmp_path / PACKED, size % (tmp_path / PACKED).stat().st_size)
    with pytest.raises(BrokenModelError, match=PACKED):
        open_packed(tmp_path)


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (blocks(1, 1, 320), {}),
        (blocks(1, 1, 320), {NAME: "q3"}),
        (blocks(1, 1, 352), {NAME: "q4"}),
        (blocks(1, 320), {NAME: "q4"}),
        (blocks(1, 1, 320).to(torch.int8), {NAME: "q4"}),
    ],
)
def test_what_is_not_in_blocks_of_a_known_kind_is_refused(data: Tensor, kinds: dict[str, str], tmp_path: Path) -> None:
    save_file({NAME: data}, tmp_path / PACKED, metadata=kinds)
    with pytest.raises(BrokenModelError, match=NAME):
        open_packed(tmp_path)
