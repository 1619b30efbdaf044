"""What the attention kernels are compared with: the quickest kernel that torch has, on tensors without any blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from benchmarks.graph_clock import repeated_seconds
from benchmarks.kernels_cases import Case
from engine.models.decoder_config import DecoderConfig

KERNELS = {
    "torch SDPA, flash": SDPBackend.FLASH_ATTENTION,
    "torch SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "torch SDPA, efficient": SDPBackend.EFFICIENT_ATTENTION,
    "torch SDPA, math": SDPBackend.MATH,
}


def quickest(
    case: Case, config: DecoderConfig, layers: int, device: torch.device, dtype: torch.dtype
) -> tuple[str, float] | None:
    """Name and seconds of the quickest contiguous kernel that takes the case, for all layers; None if none does."""
    kv = (1, config.num_kv_heads, case.before + case.new, config.head_dim)
    queries = (1, config.num_heads, case.new, config.head_dim)
    tensors = [
        tuple(torch.randn(shape, dtype=dtype, device=device) for shape in (queries, kv, kv)) for _ in range(layers)
    ]
    found = dict[str, float]()
    for name, kernel in KERNELS.items():
        # the math kernel would hold all scores
        if device.type == "cuda" and kernel is SDPBackend.MATH:
            continue
        try:
            with sdpa_kernel(kernel):
                found[name] = repeated_seconds(device, _all_layers(case, tensors))
        except RuntimeError:
            continue
    return min(found.items(), key=lambda item: item[1]) if found else None


def _all_layers(case: Case, tensors: list[tuple[Tensor, ...]]) -> Callable[[], None]:
    attend = _one_query if case.new == 1 else _causal

    @torch.inference_mode()
    def step() -> None:
        for q, k, v in tensors:
            attend(q, k, v)

    return step


def _one_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The query heads of a KV head as if they were tokens: the KV is then read once."""
    batch, heads, _, head_dim = q.shape
    return F.scaled_dot_product_attention(q.view(batch, k.shape[1], heads // k.shape[1], head_dim), k, v)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    if q.shape[2] == k.shape[2]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    bias = causal_lower_right(q.shape[2], k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=grouped)
