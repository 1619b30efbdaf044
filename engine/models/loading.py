"""From a folder of safetensors to a `Decoder`, tensor by tensor into fused weights on the device.

Peak memory is the weights in their final dtype plus one tensor of the file, less what may stay where it lies in the
file. Knows how transformers names the tensors of the Llama family; knows nothing of where the folder comes from.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.errors import BrokenModelError
from engine.models.checkpoint import Checkpoint, open_checkpoint
from engine.models.choose_ops import choose_ops
from engine.models.decoder import Decoder, DecoderWeights, LayerWeights
from engine.models.decoder_config import DecoderConfig, read_decoder_config
from engine.models.progress import Progress, silent
from engine.parallel.ops import ParallelOps
from engine.parallel.shard import WHOLE, Shard

if TYPE_CHECKING:
    from engine.parallel.group import Group

_EMBEDDING, _HEAD, _NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def load_decoder(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    mapped: bool = False,
    progress: Progress | None = None,
    group: Group | None = None,
) -> Decoder:
    """Load the model in `folder` (config.json and safetensors, sharded or not).

    Args:
        dtype: of the weights in memory, float32 or bfloat16; the files may hold any float type of 16 bits or more.
        mapped: on a CPU, weights that lie in a file as they are needed stay views of it. For files that are never
            written to again: whoever changes one in place changes the model, or ends the process if it gets shorter.
        progress: called with a message and the fraction read so far.
        group: ranks that share the model; only this rank's shard is then read.

    Raises:
        ModelNotFoundError: no such folder, or no config or safetensors in it.
        UnsupportedModelError: the architecture or a feature of it is not supported; the message names both sides.
        BrokenModelError: files are damaged, or don't fit the config.
    """
    config = read_decoder_config(folder)
    with open_checkpoint(folder) as checkpoint:
        return read_decoder(
            checkpoint, config, device=device, dtype=dtype, mapped=mapped, progress=progress, group=group
        )


def read_decoder(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    mapped: bool = False,
    progress: Progress | None = None,
    group: Group | None = None,
) -> Decoder:
    """The model that `config` describes, its weights from `checkpoint`. As `load_decoder` otherwise."""
    shard = group.shard if group else WHOLE
    of_shard = shard.config(config)
    mapped = mapped and device.type == "cpu" and shard.size == 1
    weights = _Reader(checkpoint, config, device, dtype, shard, mapped=mapped).weights(progress or silent)
    if group is None:
        return Decoder(of_shard, weights)
    ops = choose_ops(device, config.rms_norm_eps)
    return Decoder(of_shard, weights, ParallelOps(ops, group, config.vocab_size))


def model_fingerprint(folder: Path, config: DecoderConfig, dtype: torch.dtype) -> bytes:
    """32 bytes that differ whenever the model would compute another KV: config, weights and dtype.

    Of the weights it hashes every name, dtype and shape but only a few rows of each, so it takes well under a second
    and two models count as the same only if they agree in all of these. How tensors are spread over files is no matter.
    """
    return weights_fingerprint(folder, config.digest(), dtype)


def weights_fingerprint(folder: Path, digest: bytes, dtype: torch.dtype) -> bytes:
    """As `model_fingerprint`, where `digest` stands for all but the weights in `folder` and their dtype in memory."""
    sha = hashlib.sha256(digest)
    sha.update(str(dtype).encode())
    with open_checkpoint(folder) as checkpoint:
        for name in checkpoint.names:
            kind, content = checkpoint.sample(name)
            sha.update(f"\0{name}\0{kind}\0".encode())
            sha.update(content)
    return sha.digest()


class _Reader:
    """Reads what `shard` holds of the weights that `config` asks for, and remembers which tensors those were."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: DecoderConfig,
        device: torch.device,
        dtype: torch.dtype,
        shard: Shard,
        *,
        mapped: bool,
    ) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._device = device
        self._dtype = dtype
        self._shard = shard
        self._mapped = mapped
        self._read: set[str] = set()

    def weights(self, progress: Progress) -> DecoderWeights:
        config = self._config
        embedding = self._embedding()
        layers = []
        for index in range(config.num_layers):
            layers.append(self._layer(f"model.layers.{index}"))
            progress("Loading weights", (index + 1) / config.num_layers)
        head = self._head(embedding)
        norm = self._tensor(_NORM, config.hidden_size)
        self._refuse_leftovers()
        return DecoderWeights(embedding, tuple(layers), norm, head)

    def _embedding(self) -> Tensor:
        """A file with tied embeddings may hold them under either name."""
        tied_to_head = self._config.tied_embeddings and _EMBEDDING not in self._checkpoint
        name = _HEAD if tied_to_head and _HEAD in self._checkpoint else _EMBEDDING
        return self._tensor(name, self._config.vocab_size, self._config.hidden_size)

    def _head(self, embedding: Tensor) -> Tensor:
        config, shard = self._config, self._shard
        if not config.tied_embeddings:
            return self._rows({_HEAD: config.vocab_size}, config.hidden_size)
        return embedding if shard.size == 1 else embedding[shard.part(config.vocab_size)]

    def _layer(self, prefix: str) -> LayerWeights:
        config, attention, mlp = self._config, f"{prefix}.self_attn", f"{prefix}.mlp"
        hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
        queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
        qkv = {f"{attention}.q_proj": queries, f"{attention}.k_proj": keys, f"{attention}.v_proj": keys}
        gate_up = {f"{mlp}.gate_proj": inner, f"{mlp}.up_proj": inner}
        return LayerWeights(
            attention_norm=self._tensor(f"{prefix}.input_layernorm.weight", hidden),
            qkv=self._rows(_named(qkv, "weight"), hidden),
            qkv_bias=self._rows(_named(qkv, "bias")) if config.qkv_bias else None,
            q_norm=self._tensor(f"{attention}.q_norm.weight", head_dim) if config.qk_norm else None,
            k_norm=self._tensor(f"{attention}.k_norm.weight", head_dim) if config.qk_norm else None,
            output=self._columns(f"{attention}.o_proj.weight", hidden, queries),
            output_bias=self._bias_once(f"{attention}.o_proj.bias", hidden) if config.output_bias else None,
            mlp_norm=self._tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
            gate_up=self._rows(_named(gate_up, "weight"), hidden),
            gate_up_bias=self._rows(_named(gate_up, "bias")) if config.mlp_bias else None,
            down=self._columns(f"{mlp}.down_proj.weight", hidden, inner),
            down_bias=self._bias_once(f"{mlp}.down_proj.bias", hidden) if config.mlp_bias else None,
        )

    def _tensor(self, name: str, *shape: int) -> Tensor:
        """All of a tensor, which every rank has."""
        return self._parts([(name, shape, ())])

    def _rows(self, tensors: dict[str, int], *tail: int) -> Tensor:
        """The shard's rows of tensors (name: rows), one after the other."""
        return self._parts([(name, (rows, *tail), (self._shard.part(rows),)) for name, rows in tensors.items()])

    def _columns(self, name: str, rows: int, columns: int) -> Tensor:
        """The shard's columns of a matrix."""
        return self._parts([(name, (rows, columns), (slice(rows), self._shard.part(columns)))])

    def _bias_once(self, name: str, count: int) -> Tensor | None:
        """A bias of what all ranks sum up: rank 0 adds it."""
        bias = self._tensor(name, count)
        return bias if self._shard.rank == 0 else None

    def _parts(self, tensors: list[tuple[str, tuple[int, ...], tuple[slice, ...]]]) -> Tensor:
        """Parts of tensors (name, whole shape, part) stacked into one on the device."""
        names = [name for name, _, _ in tensors]
        for name, shape, _ in tensors:
            self._checkpoint.expect(name, shape)
        self._read.update(names)
        view = self._checkpoint.stacked(names, self._dtype) if self._mapped else None
        return self._copied(tensors) if view is None else view

    def _copied(self, tensors: list[tuple[str, tuple[int, ...], tuple[slice, ...]]]) -> Tensor:
        shapes = [_shape_of(shape, part) for _, shape, part in tensors]
        counts = [shape[0] for shape in shapes]
        stacked = torch.empty(sum(counts), *shapes[0][1:], dtype=self._dtype, device=self._device)
        for (name, _, part), target in zip(tensors, stacked.split_with_sizes(counts), strict=True):
            self._checkpoint.read_into(name, target, part if self._shard.size > 1 else ())
        return stacked

    def _refuse_leftovers(self) -> None:
        """A bias or norm in a layer that nothing reads means that the files belong to another architecture."""
        layer = re.compile(r"model\.layers\.(\d+)\.(?!self_attn\.rotary_emb\.)")
        for name in self._checkpoint.names:
            match = layer.match(name)
            if match and int(match[1]) < self._config.num_layers and name not in self._read:
                raise BrokenModelError(f"the weights have {name}, for which the config has no place", tensor=name)


def _named(projections: dict[str, int], kind: str) -> dict[str, int]:
    return {f"{name}.{kind}": rows for name, rows in projections.items()}


def _shape_of(shape: tuple[int, ...], part: tuple[slice, ...]) -> tuple[int, ...]:
    """The shape of `part` of a tensor."""
    found = [len(range(*cut.indices(length))) for length, cut in zip(shape, part, strict=False)]
    return (*found, *shape[len(found) :])
