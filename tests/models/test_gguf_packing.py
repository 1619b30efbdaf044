"""The GGUF's own weights beside the converted model: every matrix that says the same, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.models import gguf_conversion
from engine.models.gguf_packing import agrees, pack_matrices
from engine.models.packed_weights import PackedMatrix, open_packed
from engine.native.packing import Q8, Quantized
from tests.models.tiny_gguf import write_family_gguf
from tests.tiny_models import make_tiny_model

QUERY = "model.layers.1.self_attn.q_proj.weight"


def convert(family: str, tmp_path: Path, **config: Any) -> tuple[Path, Path]:
    """A GGUF of a small random model, every matrix as Q8_0, and the folder of its weights."""
    config = {"head_dim": 128, **config} if family == "qwen3" else config
    original = make_tiny_model(family, tmp_path / "original", **config)
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    file, folder = write_family_gguf(tmp_path / "tiny.gguf", family, model), tmp_path / "converted"
    gguf_conversion.save(gguf_conversion.load(file), folder)
    return file, folder


def packed(file: Path, folder: Path) -> dict[str, PackedMatrix]:
    pack_matrices(gguf.GGUFReader(str(file)), folder, lambda _: None)
    return open_packed(folder)


def dense(folder: Path) -> dict[str, Tensor]:
    """The matrices in the folder's safetensors, float32, the output's also if it is the embedding."""
    found = load_file(folder / "model.safetensors")
    output = found.get("lm_head.weight", found.pop("model.embed_tokens.weight"))
    return {name: weight.float() for name, weight in found.items() if weight.dim() == 2} | {
        "lm_head.weight": output.float()
    }


def change(folder: Path, name: str, where: Any, factor: float) -> None:
    """Multiply some of a matrix in the folder's safetensors."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name][where] *= factor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_matrix_is_packed(family: str, tmp_path: Path) -> None:
    """Of `llama` the rows of queries and keys lie in another order in the file."""
    file, folder = convert(family, tmp_path)
    found, expected = packed(file, folder), dense(folder)
    assert found.keys() == expected.keys()
    assert len(found) == 3 * 7 + 1
    for name, matrix in found.items():
        assert (matrix.rows, matrix.columns) == tuple(expected[name].shape)
        assert torch.equal(matrix.weights().bfloat16().float(), expected[name])


def test_an_output_of_its_own_is_packed(tmp_path: Path) -> None:
    file, folder = convert("qwen2", tmp_path, tie_word_embeddings=False)
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    matrix = packed(file, folder)["lm_head.weight"]
    assert torch.equal(matrix.weights().bfloat16().float(), dense(folder)["lm_head.weight"])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (-1, -1)])
def test_one_other_weight_and_the_matrix_is_left_out(family: str, row: int, column: int, tmp_path: Path) -> None:
    file, folder = convert(family, tmp_path)
    change(folder, QUERY, (row, column), 1.1)
    assert dense(folder).keys() - packed(file, folder).keys() == {QUERY}


def test_a_matrix_of_another_shape_or_name_is_left_out(tmp_path: Path) -> None:
    file, folder = convert("qwen2", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors[QUERY] = tensors[QUERY][:16].clone()
    tensors["renamed"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors")
    left_out = {QUERY, "model.layers.0.mlp.up_proj.weight"}
    assert not packed(file, folder).keys() & left_out
    assert len(packed(file, folder)) == 3 * 7 + 1 - 2


def test_what_cannot_be_cut_into_blocks_is_left_out(tmp_path: Path) -> None:
    file, folder = convert("qwen2", tmp_path, num_attention_heads=8, num_key_value_heads=1)  # 8 rows of keys
    left_out = dense(folder).keys() - packed(file, folder).keys()
    assert left_out == {f"model.layers.{i}.self_attn.{part}_proj.weight" for i in range(3) for part in "kv"}


@pytest.mark.parametrize("scale", [np.inf, np.nan])
def test_what_is_not_finite_agrees_with_nothing(scale: float) -> None:
    broken = Quantized(Q8, np.full((16, 32), 200, np.uint8), np.full((16, 1), scale, np.float16))
    with np.errstate(invalid="ignore"):
        assert not agrees(broken, broken.weights(), loss=0.0)


def test_progress_is_told(tmp_path: Path) -> None:
    file, folder = convert("qwen2", tmp_path)
    shares: list[float] = []
    pack_matrices(gguf.GGUFReader(str(file)), folder, shares.append)
    assert len(shares) == 3 * 7 + 1
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] < 1
