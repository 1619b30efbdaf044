"""The decoder's operations on CUDA: one kernel each for one token, cuBLAS and fused elementwise kernels for more.

Imported only where Triton is installed. Knows nothing of layers, attention or KV.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from engine.models.decoder_ops import TorchOps
from engine.models.kernels.many_rows import gated_kernel, norm_heads_kernel
from engine.models.kernels.one_row import add_linear_kernel, linear_kernel, norm_gated_kernel, norm_linear_kernel
from engine.models.kernels.row_launch import RowLaunch, row_launch
from engine.models.linear import linear

_ELEMENTS = 1024
"""That a program of an elementwise kernel treats."""


class TritonOps:
    """See `DecoderOps`. One token's products are not rounded on their way, so they are nearer to float32 than torch's.

    Args:
        eps: ε of every norm.
        device: where all tensors are.
        launch: for a matrix of so many outputs and inputs, how one row is multiplied with it.
        overlap: whether a kernel may ask for its weights before the one ahead has ended, where the device can.
    """

    def __init__(
        self,
        eps: float,
        device: torch.device,
        *,
        launch: Callable[[int, int], RowLaunch] = row_launch,
        overlap: bool = True,
    ) -> None:
        self._eps = eps
        self._torch = TorchOps(eps)
        self._launch = launch
        self._overlap = overlap and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        self._options: dict[str, Any] = {"launch_pdl": True} if self._overlap else {}

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._torch.norm(x, weight)  # one kernel in torch, too

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if len(x) != 1:
            return self._torch.norm_linear(x, norm, weight, bias)
        out = x.new_empty(1, len(weight))
        launch = self._launch(*weight.shape)
        norm_linear_kernel[(triton.cdiv(len(weight), launch.rows),)](
            out, x.contiguous(), norm, weight, bias, weight.stride(0), len(weight), self._eps, **self._given(x, launch)
        )
        return out

    def norm_gated(self, x: Tensor, norm: Tensor, gate_up: Tensor, bias: Tensor | None) -> Tensor:
        inner = len(gate_up) // 2
        out = x.new_empty(len(x), inner)
        if len(x) != 1:
            product = linear(self.norm(x, norm), gate_up, bias).contiguous()
            gated_kernel[(len(x), triton.cdiv(inner, _ELEMENTS))](out, product, inner, COLUMNS=_ELEMENTS)
            return out
        launch = self._launch(*gate_up.shape)
        norm_gated_kernel[(triton.cdiv(inner, launch.rows),)](
            out, x.contiguous(), norm, gate_up, bias, gate_up.stride(0), inner, self._eps, **self._given(x, launch)
        )
        return out

    def add_linear_(self, total: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        if len(x) != 1:
            self._torch.add_linear_(total, x, weight, bias)
            return
        launch = self._launch(*weight.shape)
        add_linear_kernel[(triton.cdiv(len(weight), launch.rows),)](
            total, x.contiguous(), weight, bias, weight.stride(0), len(weight), **self._given(x, launch)
        )

    def norm_heads(self, q: Tensor, k: Tensor, q_norm: Tensor, k_norm: Tensor) -> tuple[Tensor, Tensor]:
        tokens, q_heads, head_dim = q.shape
        k_heads, block = k.shape[1], triton.next_power_of_2(head_dim)
        heads = max(1, _ELEMENTS // block)
        norm_heads_kernel[(tokens, triton.cdiv(q_heads + k_heads, heads))](
            q,
            k,
            q_norm,
            k_norm,
            q.stride(0),
            k.stride(0),
            self._eps,
            Q_HEADS=q_heads,
            K_HEADS=k_heads,
            DIM=head_dim,
            HEADS=heads,
            BLOCK_D=block,
            OVERLAP=self._overlap,
            **self._options,
        )
        return q, k

    def logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        if len(hidden) != 1:
            return self._torch.logits(hidden, head)
        out = hidden.new_empty(1, len(head), dtype=torch.float32)
        launch = self._launch(*head.shape)
        linear_kernel[(triton.cdiv(len(head), launch.rows),)](
            out, hidden.contiguous(), head, head.stride(0), len(head), **self._given(hidden, launch)
        )
        return out

    def _given(self, x: Tensor, launch: RowLaunch) -> dict[str, Any]:
        """What all kernels of one row are given by name."""
        sizes = {"INPUTS": x.shape[1], "ROWS": launch.rows, "COLUMNS": launch.columns, "num_warps": launch.warps}
        return {**sizes, "OVERLAP": self._overlap, **self._options}
