"""The operations that a decoder's layers are made of, fused where a device can do them in one go.

`TorchOps` says what each computes, and runs everywhere. Knows nothing of layers, attention or KV.
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from engine.models.linear import add_linear_, linear


class DecoderOps(Protocol):
    """What `Decoder` calls; T tokens stand in rows. Matrices are [out, in], x and the results of the model's dtype.

    Nothing here waits for the device or reads from it, so all of it can be captured in a CUDA graph.
    """

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last dimension of x: x / √(mean x² + ε) · weight, computed in float32."""

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """norm(x [T, in]) · weightᵀ + bias: [T, out]."""

    def norm_gated(self, x: Tensor, norm: Tensor, gate_up: Tensor, bias: Tensor | None) -> Tensor:
        """silu(gate) · up of norm(x [T, in]), [T, inner]; the rows of gate_up [2 · inner, in] make gate, then up."""

    def add_linear_(self, total: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Add x [T, in] · weightᵀ + bias to total [T, out] in place."""

    def norm_heads(self, q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Norm each head of q [T, heads, head_dim] and of k [T, kv_heads, head_dim], which may be changed in place.

        Both may have gaps between tokens, but none between heads.
        """

    def logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        """hidden [n, in] · headᵀ as float32: [n, vocab]."""


class TorchOps:
    """All of it in plain torch.

    Args:
        eps: ε of every norm.
    """

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self._eps)

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(self.norm(x, norm), weight, bias)

    def norm_gated(self, x: Tensor, norm: Tensor, gate_up: Tensor, bias: Tensor | None) -> Tensor:
        gate, up = linear(self.norm(x, norm), gate_up, bias).chunk(2, -1)
        return F.silu(gate).mul_(up)

    def add_linear_(self, total: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        add_linear_(total, x, weight, bias)

    def norm_heads(self, q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(q, q_norm), self.norm(k, k_norm)

    def logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        return linear(hidden, head).float()
