"""The decoder of the Llama family: Llama, Mistral, Qwen2, Qwen3, SmolLM2 and SmolLM3 in one module.

Plain tensors and function calls, cheap enough in Python to run layer by layer for every decoded token. Knows nothing
of KV or blocks, nor of positions: the attention that its caller brings also rotates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.choose_ops import choose_ops
from engine.models.decoder_config import DecoderConfig
from engine.models.decoder_ops import DecoderOps
from engine.models.language_model import Attend, AttendOrKeep, LayerSpec
from engine.models.packed_weights import PackedMatrix
from engine.models.rotary import RotaryTable


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices are [out, in]; a bias or norm the model does not have is None.

    Attributes:
        qkv: rows of the query, key and value projections, one after the other; `qkv_bias` likewise.
        gate_up: rows of the gate and of the up projection; `gate_up_bias` likewise.
        q_norm, k_norm: [head_dim].
    """

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights, on one device in one dtype. `embedding` and `head` are [vocab, hidden]; tied ones are the same.

    Of a model that several GPUs share these are a rank's part of all but the embedding and the norms.
    """

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor


class Decoder:
    """A loaded model (see `LanguageModel`). It holds no state besides its weights: passes never affect each other.

    Args:
        ops: what its layers are computed with; None for what is quickest on the weights' device.

    Attributes:
        packed: matrices as the model's GGUF has them, by transformers' names; they agree with `weights`.
    """

    stateful = False
    one_by_one = False

    def __init__(self, config: DecoderConfig, weights: DecoderWeights, ops: DecoderOps | None = None) -> None:
        self.config = config
        self.weights = weights
        self.packed: Mapping[str, PackedMatrix] = {}
        self._ops = ops or choose_ops(weights.embedding.device, config.rms_norm_eps)
        self.rotary = (RotaryTable.of(config.rope, 2 * config.max_position, weights.embedding.device),)
        self.exact_only: str | None = None
        self._head_counts = (config.num_heads, config.num_kv_heads, config.num_kv_heads)

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        return self.config.layers

    @property
    def max_position(self) -> int:
        return self.config.max_position

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def device(self) -> torch.device:
        return self.weights.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.embedding.dtype

    def forward(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run the layers over `token_ids`, int64 [T]; returns the hidden states after the final norm, [T, hidden]."""
        hidden = self._through(self.weights.layers, token_ids, attend)
        return self._ops.norm(hidden, self.weights.norm)

    def fill(self, token_ids: Tensor, positions: Tensor, attend: AttendOrKeep) -> None:
        """As `forward`, without all that comes behind the last layer's keys and values."""
        *layers, last = self.weights.layers
        self._keep(self._through(layers, token_ids, attend), len(layers), last, attend)

    def advance(
        self, token_ids: Tensor, positions: Tensor, attend: Attend, state: object | None
    ) -> tuple[Tensor, object | None]:
        return self.forward(token_ids, positions, attend), None

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [n, hidden] to float32 logits [n, vocab]."""
        return self._ops.logits(hidden, self.weights.head)

    def _through(self, layers: Sequence[LayerWeights], token_ids: Tensor, attend: Attend) -> Tensor:
        """Hidden states behind the first layers, [T, hidden]."""
        hidden = F.embedding(token_ids, self.weights.embedding)
        for index, layer in enumerate(layers):
            self._add_attention_(hidden, index, layer, attend)
            self._add_mlp_(hidden, layer)
        return hidden

    def _keep(self, hidden: Tensor, index: int, layer: LayerWeights, attend: AttendOrKeep) -> None:
        queries = self.config.num_heads * self.config.head_dim
        bias = None if layer.qkv_bias is None else layer.qkv_bias[queries:]
        kv = self._ops.norm_linear(hidden, layer.attention_norm, layer.qkv[queries:], bias).contiguous()
        k, v = kv.view(len(hidden), -1, self.config.head_dim).tensor_split(2, 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            _, k = self._ops.norm_heads(k[:, :0], k, layer.q_norm, layer.k_norm)
        attend.keep(index, k, v)

    def _add_attention_(self, hidden: Tensor, index: int, layer: LayerWeights, attend: Attend) -> None:
        qkv = self._ops.norm_linear(hidden, layer.attention_norm, layer.qkv, layer.qkv_bias).contiguous()
        q, k, v = qkv.view(len(hidden), -1, self.config.head_dim).split_with_sizes(self._head_counts, 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._ops.norm_heads(q, k, layer.q_norm, layer.k_norm)
        mixed = attend(index, q, k, v).reshape(len(hidden), -1)
        self._ops.add_linear_(hidden, mixed, layer.output, layer.output_bias)

    def _add_mlp_(self, hidden: Tensor, layer: LayerWeights) -> None:
        gated = self._ops.norm_gated(hidden, layer.mlp_norm, layer.gate_up, layer.gate_up_bias)
        self._ops.add_linear_(hidden, gated, layer.down, layer.down_bias)
