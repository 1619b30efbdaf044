"""Softmax attention of some queries over one view of keys, with its log-sum-exp, and the merge of such parts.

The LSE is the natural logarithm in float32, and −inf for a query that sees no key, whatever the kernel underneath says.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The rows of queries that torch's kernel for CPUs hands to one thread at a time, if there are many
_ROWS_PER_THREAD = 256
# The rows of scores that the plain path holds at once: heads · queries · keys
_SCORES_AT_ONCE = 1 << 26


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    causal: bool = False,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of q [heads, n, d] over k and v [kv_heads, m, d]; heads is a multiple of kv_heads.

    `causal` (n = m) lets query i see keys ≤ i; `allowed`, bool [n, m], is a mask of any other form. Scores s become
    softcap · tanh(s / softcap) if a `softcap` is given.
    Returns the output [heads, n, d] in q's dtype and the LSE, float32 [heads, n].
    """
    if softcap is None and q.device.type == "cpu":
        return _attend_cpu(q, k, v, scale=scale, causal=causal, allowed=allowed)
    if softcap is None and allowed is None and _fits_flash(q):
        return _attend_cuda(q, k, v, scale=scale, causal=causal)
    return _attend_plain(q, k, v, scale=scale, softcap=softcap, causal=causal, allowed=allowed)


def _fits_flash(q: Tensor) -> bool:
    """What the FlashAttention kernel on CUDA takes."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    return q.device.type == "cuda" and half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def _attend_cpu(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """torch's own flash kernel for CPUs: it reads strided views and shares kv heads among query heads."""
    if allowed is None and not causal and _fills_threads(q):
        return _attend_grouped(q, k, v, scale=scale)
    mask = None
    if allowed is not None:
        mask = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill_(~allowed, float("-inf"))
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[None], k[None], v[None], 0.0, causal, attn_mask=mask, scale=scale
    )
    lse = lse[0].float()
    if allowed is not None:
        # the kernel gives 0, not -inf, for a row that is masked throughout
        lse = lse.masked_fill(~allowed.any(-1), float("-inf"))
    return output[0], lse


def _fills_threads(q: Tensor) -> bool:
    """Whether there is work for every thread in the largest portions that the kernel shares out."""
    heads, n, _ = q.shape
    return heads * n >= _ROWS_PER_THREAD * torch.get_num_threads()


def _attend_grouped(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """As `_attend_cpu`, with all queries that share a kv head as those of one head: each key is read for more of them.

    On two cores this was a tenth faster for seven query heads per kv head.
    """
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q.reshape(len(k), -1, q.shape[-1])[None], k[None], v[None], 0.0, False, scale=scale
    )
    return output[0].reshape(q.shape), lse[0].float().reshape(q.shape[:2])


def _attend_cuda(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """The FlashAttention kernel that torch carries; it shares kv heads among query heads, too."""
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q[None], k[None], v[None], 0.0, causal, False, scale=scale
    )
    return output[0], lse[0]


def _attend_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool,
    allowed: Tensor | None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, in float32, some queries at a time."""
    heads, n, _ = q.shape
    groups = heads // k.shape[0]
    if causal:
        allowed = torch.ones(n, n, dtype=torch.bool, device=q.device).tril_()
    keys = k.float().repeat_interleave(groups, 0).transpose(1, 2)
    values = v.float().repeat_interleave(groups, 0)
    outputs, sums = [], []
    step = max(1, _SCORES_AT_ONCE // (heads * k.shape[1]))
    for first in range(0, n, step):
        scores = (q[:, first : first + step].float() * scale) @ keys
        if softcap is not None:
            scores = torch.tanh_(scores.div_(softcap)).mul_(softcap)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[first : first + step], float("-inf"))
        lse = scores.logsumexp(-1)
        weights = torch.exp(scores - lse.clamp_min(torch.finfo(torch.float32).min)[..., None])
        outputs.append((weights @ values).to(q.dtype))
        sums.append(lse)
    return torch.cat(outputs, 1), torch.cat(sums, 1)


def merge(parts: list[tuple[Tensor, Tensor]], weights: Tensor | None = None) -> Tensor:
    """Attention over the union of disjoint key sets from the parts' outputs and LSEs; every query sees some key.

    With m = max LSEᵢ the result is Σ e^(LSEᵢ−m)·Oᵢ / Σ e^(LSEᵢ−m), summed in float32 (FlashDecoding's merge).
    `weights` are those of `shares`, if they are at hand.
    """
    if len(parts) == 1:
        return parts[0][0]
    weights = shares(parts) if weights is None else weights
    # one after the other into one sum: a stack of all of them as float32 would not fit into any cache
    merged = parts[0][0] * weights[0, ..., None]
    for (output, _), weight in zip(parts[1:], weights[1:], strict=True):
        merged.addcmul_(output.float(), weight[..., None])
    return merged.to(parts[0][0].dtype)


def shares(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The share of attention that each part gets, float32 [parts, heads, n]; sums to 1 over the parts."""
    return torch.softmax(torch.stack([lse for _, lse in parts]), dim=0)
