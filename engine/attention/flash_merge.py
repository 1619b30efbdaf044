"""Puts the parts of a flash step together: by a kernel on CUDA, and its twin in plain torch, which says the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attention.flash_plan import PlannedRow


@dataclass(frozen=True, eq=False)
class Parts:
    """What is to be merged.

    Attributes:
        runs: output [Q, heads, head_dim] and LSE, float32 [heads, Q], of the queries over runs.
        new: the same of the new tokens among themselves, [T, …]; None if the runs hold these.
        sinks: as `LayerSpec.sinks`.
    """

    runs: tuple[Tensor, Tensor]
    new: tuple[Tensor, Tensor] | None
    sinks: Tensor | None


def merge_plain(parts: Parts, rows: Sequence[PlannedRow]) -> tuple[Tensor, Tensor]:
    """Attention of the T new tokens over everything [T, heads, head_dim], and its LSE, float32 [heads, T].

    With m = max LSEᵢ the output is Σ e^(LSEᵢ−m)·Oᵢ / Σ e^(LSEᵢ−m) (FlashDecoding's merge); a sink has Oᵢ = 0.
    """
    merged = [_merge_row(parts, row) for row in rows]
    return torch.cat([out for out, _ in merged]), torch.cat([lse for _, lse in merged], 1)


def _merge_row(parts: Parts, row: PlannedRow) -> tuple[Tensor, Tensor]:
    (out, lse), new = parts.runs, parts.new
    heads, head_dim = out.shape[1:]
    queries = slice(row.first_query, row.first_query + row.parts * row.count)
    outs = out[queries].view(row.parts, row.count, heads, head_dim).float()
    sums = lse[:, queries].view(heads, row.parts, row.count).transpose(0, 1)
    if new is not None:
        tokens = slice(row.first, row.first + row.count)
        outs = torch.cat((outs, new[0][None, tokens].float()))
        sums = torch.cat((sums, new[1][None, :, tokens]))
    total = sums.logsumexp(0) if parts.sinks is None else _with_sinks(sums, parts.sinks).logsumexp(0)
    weights = torch.exp(sums - total).transpose(1, 2)
    return (outs * weights[..., None]).sum(0).to(out.dtype), total


def _with_sinks(sums: Tensor, sinks: Tensor) -> Tensor:
    return torch.cat((sums, sinks[None, :, None].expand(1, -1, sums.shape[2])))


def merge_by_kernel(parts: Parts, places: Tensor, *, wants_lse: bool) -> tuple[Tensor, Tensor]:
    """As `merge_plain`, for `FlashPlan.parts` on the device; the LSE is empty unless it is wanted."""
    import triton  # only here: CPUs do without it

    from engine.attention.kernels.merge_rows import merge_rows_kernel

    (run_out, run_lse), tokens = parts.runs, len(places)
    _, heads, head_dim = run_out.shape
    new_out, new_lse = parts.runs if parts.new is None else parts.new
    out = torch.empty(tokens, heads, head_dim, dtype=run_out.dtype, device=run_out.device)
    lse = torch.empty(heads if wants_lse else 0, tokens, dtype=torch.float32, device=run_out.device)
    merge_rows_kernel[(tokens, heads)](
        run_out.contiguous(),
        run_lse.contiguous(),
        new_out.contiguous(),
        new_lse.contiguous(),
        lse if parts.sinks is None else parts.sinks,
        out,
        lse,
        places,
        run_out.shape[0],
        tokens,
        HEADS=heads,
        DIM=head_dim,
        BLOCK_P=16,
        BLOCK_D=triton.next_power_of_2(head_dim),
        NEW=parts.new is not None,
        SINKS=parts.sinks is not None,
        LSE=wants_lse,
        num_warps=4,
    )
    return out, lse
