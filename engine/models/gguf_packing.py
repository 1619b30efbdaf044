"""Finds a converted model's matrices in the GGUF they came from, and packs the GGUF's own quantized weights of them.

A matrix is packed only if it says what the model's safetensors say, so a model computes the same whichever of the two
it is read from. Knows the names of the Llama family's matrices, but no list of architectures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from engine.models.checkpoint import Checkpoint, open_checkpoint
from engine.models.gguf_blocks import is_quantized, kind_of, loss, quantized
from engine.models.packed_weights import PackedMatrix, save_packed
from engine.native.packing import BLOCK_ROWS, Quantized, fits, pack, packed_shape, unpack

AT_ONCE = 1 << 18
"""Weights that are packed at once: few enough for a processor's cache."""

BFLOAT16_ROUNDING = 2.0**-8

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_IN_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
"""What a config calls the number of heads of the matrices whose rows llama.cpp may have in another order."""

_OUTPUT, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Source:
    """Where the GGUF may have a matrix.

    Attributes:
        type: of its blocks, quantized.
        rows: [rows, bytes of a row], uint8.
        shape: rows and columns.
        heads: into how many its rows are divided, if they may be in another order; else None.
    """

    type: gguf.GGMLQuantizationType
    rows: NDArray[np.uint8]
    shape: tuple[int, int]
    heads: int | None = None

    def orders(self) -> Iterator[NDArray[np.uint8]]:
        """Its rows as they are, and as they are if those of the two halves of each head have been put in turns."""
        yield self.rows
        if self.heads and self.shape[0] % (2 * self.heads) == 0:
            turns = self.rows.reshape(self.heads, -1, 2, self.rows.shape[1])
            yield turns.swapaxes(1, 2).reshape(self.rows.shape)


def pack_matrices(reader: gguf.GGUFReader, folder: Path, progress: Callable[[float], None]) -> None:
    """Writes the packed matrices of the model in `folder`, which was made of this GGUF, beside its safetensors.

    Writes no file if there are none. Holds in memory what it will write. `progress` gets shares of the work done.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    candidates, packed = _candidates(reader, config), dict[str, PackedMatrix]()
    # a scale beyond float16 agrees with nothing, without a warning
    with open_checkpoint(folder) as checkpoint, _one_thread(), np.errstate(over="ignore", invalid="ignore"):
        for number, (name, sources) in enumerate(candidates.items()):
            progress(number / len(candidates))
            matrix = _packed(name, sources, checkpoint)
            if matrix is not None:
                packed[name] = matrix
    if packed:
        save_packed(packed, folder)


# -- finding -----------------------------------------------------------------------------------------------------------


def _candidates(reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, list[Source]]:
    """By the model's name of a matrix: where it may be. The output matrix may be one with the embedding."""
    tensors = {tensor.name: tensor for tensor in reader.tensors if _can_be_packed(tensor)}
    outputs = [_source(tensors[name]) for name in ("output.weight", "token_embd.weight") if name in tensors]
    candidates = {_OUTPUT: outputs}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if match and match[2] in _IN_LAYER:
            heads = config.get(_HEADS.get(match[2], ""))
            source = _source(tensor, heads if isinstance(heads, int) else None)
            candidates[f"model.layers.{match[1]}.{_IN_LAYER[match[2]]}.weight"] = [source]
    return candidates


def _can_be_packed(tensor: gguf.ReaderTensor) -> bool:
    type = tensor.tensor_type
    return len(tensor.shape) == 2 and is_quantized(type) and fits(kind_of(type), *_shape(tensor))


def _source(tensor: gguf.ReaderTensor, heads: int | None = None) -> Source:
    return Source(tensor.tensor_type, tensor.data, _shape(tensor), heads)


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, int]:
    """GGUF names the columns first."""
    columns, rows = tensor.shape
    return int(rows), int(columns)


# -- packing what agrees -----------------------------------------------------------------------------------------------


def _packed(name: str, sources: list[Source], checkpoint: Checkpoint) -> PackedMatrix | None:
    """The model's matrix `name` from the first source that agrees with it, if any does."""
    stored = _EMBEDDING if name == _OUTPUT and name not in checkpoint else name
    for source in sources:
        if stored in checkpoint and checkpoint.shape(stored) == source.shape:
            for rows in source.orders():
                matrix = _packed_if_same(source, rows, checkpoint, stored)
                if matrix is not None:
                    return matrix
    return None


def _packed_if_same(
    source: Source, rows: NDArray[np.uint8], checkpoint: Checkpoint, stored: str
) -> PackedMatrix | None:
    """None as soon as some of these rows, packed and unpacked again, are not the model's."""
    packed = np.empty(packed_shape(kind_of(source.type), *source.shape), np.uint8)
    for start, stop in _pieces(*source.shape):
        part = quantized(rows[start:stop], source.type)
        blocks = pack(part)
        expected = torch.empty(stop - start, source.shape[1])
        checkpoint.read_into(stored, expected, (slice(start, stop),))
        if not agrees(unpack(part.kind, blocks), expected.numpy(), loss(source.type)):
            return None
        packed[start // BLOCK_ROWS : stop // BLOCK_ROWS] = blocks
    return PackedMatrix(kind_of(source.type), torch.from_numpy(packed))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Over such small pieces torch's threads mostly wait for each other; with busy cores it took four times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pieces(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """First row and the one behind the last, of pieces of about `AT_ONCE` weights."""
    step = max(AT_ONCE // columns // BLOCK_ROWS, 1) * BLOCK_ROWS
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def agrees(matrix: Quantized, expected: NDArray[np.float32], loss: float) -> bool:
    """Whether these weights are the expected ones, [rows, columns], but for rounding.

    The expected weights were rounded to bfloat16; `loss` is what `gguf_blocks.loss` says of these.
    """
    reach = matrix.reach()
    allowed = BFLOAT16_ROUNDING * np.abs(expected) + loss * reach
    return bool(np.isfinite(reach).all() and (np.abs(matrix.weights() - expected) <= allowed).all())
