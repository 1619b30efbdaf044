"""From a folder of safetensors to a `Decoder`, tensor by tensor into fused weights on the device.

Peak memory is the weights in their final dtype plus one tensor of the file. Knows how transformers names the tensors
of the Llama family; knows nothing of where the folder comes from.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import BrokenModelError
from engine.models.checkpoint import Checkpoint, open_checkpoint
from engine.models.decoder import Decoder, DecoderWeights, LayerWeights
from engine.models.decoder_config import DecoderConfig, read_decoder_config
from engine.models.progress import Progress, silent

_EMBEDDING, _HEAD, _NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def load_decoder(
    folder: Path, *, device: torch.device, dtype: torch.dtype, progress: Progress | None = None
) -> Decoder:
    """Load the model in `folder` (config.json and safetensors, sharded or not).

    Args:
        dtype: of the weights in memory, float32 or bfloat16; the files may hold any float type of 16 bits or more.
        progress: called with a message and the fraction read so far.

    Raises:
        ModelNotFoundError: no such folder, or no config or safetensors in it.
        UnsupportedModelError: the architecture or a feature of it is not supported; the message names both sides.
        BrokenModelError: files are damaged, or don't fit the config.
    """
    config = read_decoder_config(folder)
    with open_checkpoint(folder) as checkpoint:
        return read_decoder(checkpoint, config, device=device, dtype=dtype, progress=progress)


def read_decoder(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> Decoder:
    """The model that `config` describes, its weights from `checkpoint`. As `load_decoder` otherwise."""
    return Decoder(config, _Reader(checkpoint, config, device, dtype).weights(progress or silent))


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
    """Reads the weights that `config` asks for, and remembers which tensors those were."""

    def __init__(self, checkpoint: Checkpoint, config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._device = device
        self._dtype = dtype
        self._read: set[str] = set()

    def weights(self, progress: Progress) -> DecoderWeights:
        config = self._config
        embedding = self._embedding()
        layers = []
        for index in range(config.num_layers):
            layers.append(self._layer(f"model.layers.{index}"))
            progress("Loading weights", (index + 1) / config.num_layers)
        head = embedding if config.tied_embeddings else self._tensor(_HEAD, config.vocab_size, config.hidden_size)
        norm = self._tensor(_NORM, config.hidden_size)
        self._refuse_leftovers()
        return DecoderWeights(embedding, tuple(layers), norm, head)

    def _embedding(self) -> Tensor:
        """A file with tied embeddings may hold them under either name."""
        tied_to_head = self._config.tied_embeddings and _EMBEDDING not in self._checkpoint
        name = _HEAD if tied_to_head and _HEAD in self._checkpoint else _EMBEDDING
        return self._tensor(name, self._config.vocab_size, self._config.hidden_size)

    def _layer(self, prefix: str) -> LayerWeights:
        config, attention, mlp = self._config, f"{prefix}.self_attn", f"{prefix}.mlp"
        hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
        queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
        qkv = {f"{attention}.q_proj": queries, f"{attention}.k_proj": keys, f"{attention}.v_proj": keys}
        gate_up = {f"{mlp}.gate_proj": inner, f"{mlp}.up_proj": inner}
        return LayerWeights(
            attention_norm=self._tensor(f"{prefix}.input_layernorm.weight", hidden),
            qkv=self._matrix(qkv, hidden),
            qkv_bias=self._bias(qkv, config.qkv_bias),
            q_norm=self._tensor(f"{attention}.q_norm.weight", head_dim) if config.qk_norm else None,
            k_norm=self._tensor(f"{attention}.k_norm.weight", head_dim) if config.qk_norm else None,
            output=self._matrix({f"{attention}.o_proj": hidden}, queries),
            output_bias=self._bias({f"{attention}.o_proj": hidden}, config.output_bias),
            mlp_norm=self._tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
            gate_up=self._matrix(gate_up, hidden),
            gate_up_bias=self._bias(gate_up, config.mlp_bias),
            down=self._matrix({f"{mlp}.down_proj": hidden}, inner),
            down_bias=self._bias({f"{mlp}.down_proj": hidden}, config.mlp_bias),
        )

    def _matrix(self, projections: dict[str, int], columns: int) -> Tensor:
        """Stack the weights of projections (name: rows) into one matrix."""
        return self._stacked({f"{name}.weight": rows for name, rows in projections.items()}, columns)

    def _bias(self, projections: dict[str, int], present: bool) -> Tensor | None:
        return self._stacked({f"{name}.bias": rows for name, rows in projections.items()}) if present else None

    def _tensor(self, name: str, *shape: int) -> Tensor:
        return self._stacked({name: shape[0]}, *shape[1:])

    def _stacked(self, rows: dict[str, int], *tail: int) -> Tensor:
        for name, count in rows.items():
            self._checkpoint.expect(name, (count, *tail))
        target = torch.empty(sum(rows.values()), *tail, dtype=self._dtype, device=self._device)
        for name, part in zip(rows, target.split_with_sizes(list(rows.values())), strict=True):
            self._checkpoint.read_into(name, part)
            self._read.add(name)
        return target

    def _refuse_leftovers(self) -> None:
        """A bias or norm in a layer that nothing reads means that the files belong to another architecture."""
        layer = re.compile(r"model\.layers\.(\d+)\.(?!self_attn\.rotary_emb\.)")
        for name in self._checkpoint.names:
            match = layer.match(name)
            if match and int(match[1]) < self._config.num_layers and name not in self._read:
                raise BrokenModelError(f"the weights have {name}, for which the config has no place", tensor=name)
