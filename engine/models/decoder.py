"""The decoder of the Llama family: Llama, Mistral, Qwen2, Qwen3, SmolLM2 and SmolLM3 in one module.

Plain tensors and function calls, cheap enough in Python to run layer by layer for every decoded token. Knows nothing
of positions, KV or blocks: whoever calls it brings the attention, which also rotates, and `torch.inference_mode`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.decoder_config import DecoderConfig
from engine.models.linear import add_linear_, linear
from engine.models.rotary import RotaryTable


class Attend(Protocol):
    """The attention of one forward pass."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from the T new tokens to all tokens they may see, the new ones included.

        Args:
            q: [T, heads, head_dim], after QK-norm, before RoPE and before the softmax scale.
            k, v: [T, kv_heads, head_dim], likewise; kv head i serves query heads i * group … (i + 1) * group - 1.
                All three may be views of one tensor, with gaps between tokens; they are the callee's to change.

        Returns: [T, heads, head_dim] in q's dtype.
        """


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
    """All weights, on one device in one dtype. `embedding` and `head` are [vocab, hidden]; tied ones are the same."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor


class Decoder:
    """A loaded model. It holds no state besides its weights, so forward passes never affect each other.

    Attributes:
        rotary: for the attention. Twice as long as the model's limit: KV computed near the limit may stand at the start
            of another prompt, and a query near the limit then looks at it from almost two limits away.
    """

    def __init__(self, config: DecoderConfig, weights: DecoderWeights) -> None:
        self.config = config
        self.weights = weights
        self.rotary = RotaryTable(config.rope, 2 * config.max_position, weights.embedding.device)
        self._head_counts = (config.num_heads, config.num_kv_heads, config.num_kv_heads)

    @property
    def device(self) -> torch.device:
        return self.weights.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.embedding.dtype

    def forward(self, token_ids: Tensor, attend: Attend) -> Tensor:
        """Run the layers over `token_ids`, int64 [T]; returns the hidden states after the final norm, [T, hidden]."""
        hidden = F.embedding(token_ids, self.weights.embedding)
        for index, layer in enumerate(self.weights.layers):
            self._add_attention_(hidden, index, layer, attend)
            self._add_mlp_(hidden, layer)
        return self._norm(hidden, self.weights.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [n, hidden] to float32 logits [n, vocab]."""
        return linear(hidden, self.weights.head).float()

    def _add_attention_(self, hidden: Tensor, index: int, layer: LayerWeights, attend: Attend) -> None:
        qkv = linear(self._norm(hidden, layer.attention_norm), layer.qkv, layer.qkv_bias).contiguous()
        q, k, v = qkv.view(len(hidden), -1, self.config.head_dim).split_with_sizes(self._head_counts, 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        mixed = attend(index, q, k, v).reshape(len(hidden), -1)
        add_linear_(hidden, mixed, layer.output, layer.output_bias)

    def _add_mlp_(self, hidden: Tensor, layer: LayerWeights) -> None:
        gate, up = linear(self._norm(hidden, layer.mlp_norm), layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        add_linear_(hidden, F.silu(gate).mul_(up), layer.down, layer.down_bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last dimension, computed in float32."""
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)
