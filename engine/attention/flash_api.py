"""The flash-attn library behind one interface, whatever its version: queries over runs of slots, with log-sum-exp.

The library reads KV page by page, or sequence by sequence from a packed tensor. Runs of the pool begin at any slot, so
each version is told of them in the way that lets it: FlashAttention-2 of pages that overlap, one from each slot on;
FlashAttention-4 of sequences with the offsets and lengths that the runs have. Nothing is gathered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_PAGE = 256
"""FlashAttention-2 takes pages whose size is a multiple of this."""

NOT_INSTALLED = "attention 'flash' needs the package flash-attn, or flash-attn-4: pip install 'ctx-lsp[flash]'"


@dataclass(frozen=True, eq=False)
class KeyRuns:
    """Which queries look at which keys: from query_ends[r] to query_ends[r + 1], at `lengths[r]` keys from `slots[r]`.

    Attributes:
        query_ends: int32 [R + 1].
        slots, lengths: int32 [R]; each run has a key, so no version's convention for a query that sees nothing matters.
        most_queries, longest: the most queries of a run, and the most keys.
    """

    query_ends: Tensor
    slots: Tensor
    lengths: Tensor
    most_queries: int
    longest: int

    @cached_property
    def pages(self) -> Tensor:
        """int32 [R, pages], the slots at which pages of a run begin."""
        return self.slots[:, None] + torch.arange(0, self.longest, _PAGE, dtype=torch.int32, device=self.slots.device)

    @cached_property
    def key_ends(self) -> Tensor:
        """int32 [R + 1], where the keys of each run would begin if they lay one behind the other."""
        return torch.nn.functional.pad(self.lengths.cumsum(0, dtype=torch.int32), (1, 0))

    @cached_property
    def offsets(self) -> Tensor:
        """int32 [R + 1], the slots, and one entry that counts for nothing."""
        return torch.nn.functional.pad(self.slots, (0, 1))


class FlashAPI(ABC):
    """A version of the library.

    Attributes:
        name: the version, for people.
        reads_behind: its kernels load whole tiles of values and multiply what is behind the end of a run by zero, so
            all slots must hold numbers.
        fewest_slots: the smallest pool it can read.
    """

    name: str
    reads_behind: bool
    fewest_slots: int

    def takes_head(self, head_dim: int) -> bool:
        """Whether there is a kernel for heads of this size."""
        return head_dim % 8 == 0 and head_dim <= 256

    @abstractmethod
    def over_runs(
        self, q: Tensor, k: Tensor, v: Tensor, runs: KeyRuns, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """Every query over all keys of its run.

        q is [Q, heads, head_dim], k and v [slots, kv_heads, head_dim], views of the pool.
        Returns the output like q and the natural LSE, float32 [heads, Q].
        """

    @abstractmethod
    def among(
        self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, most: int, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """Causal attention of sequences to themselves: sequence i is [ends[i], ends[i + 1]), of at most `most` tokens.

        q is [T, heads, head_dim], k and v [T, kv_heads, head_dim]; returns what `over_runs` does.
        """


class FlashAttention2(FlashAPI):
    """flash-attn 2.x, whose module is given."""

    reads_behind = False
    fewest_slots = _PAGE

    def __init__(self, module: ModuleType | Any) -> None:
        self.name = f"flash-attn {module.__version__}"
        self._varlen = module.flash_attn_varlen_func

    def over_runs(
        self, q: Tensor, k: Tensor, v: Tensor, runs: KeyRuns, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        out, lse, _ = self._varlen(
            q,
            _overlapping_pages(k),
            _overlapping_pages(v),
            runs.query_ends,
            runs.key_ends,
            runs.most_queries,
            runs.longest,
            softmax_scale=scale,
            softcap=softcap or 0.0,
            return_attn_probs=True,
            block_table=runs.pages,
        )
        return out, lse

    def among(
        self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, most: int, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        out, lse, _ = self._varlen(
            q,
            k,
            v,
            ends,
            ends,
            most,
            most,
            softmax_scale=scale,
            causal=True,
            softcap=softcap or 0.0,
            return_attn_probs=True,
        )
        return out, lse


def _overlapping_pages(cache: Tensor) -> Tensor:
    """The cache [slots, kv_heads, head_dim] as pages [slots − 255, 256, kv_heads, head_dim], page i from slot i on.

    A run near the end of the pool may name a page behind the last. Of that the kernel reads only what is in the run,
    which is in the pool: it computes addresses from the strides and stops at the run's end.
    """
    slots, kv_heads, head_dim = cache.shape
    by_slot, by_head, by_dim = cache.stride()
    return cache.as_strided((slots - _PAGE + 1, _PAGE, kv_heads, head_dim), (by_slot, by_slot, by_head, by_dim))


class FlashAttention4(FlashAPI):
    """flash-attn-4, whose module `flash_attn.cute` is given. It compiles a kernel when one is first needed."""

    reads_behind = True
    fewest_slots = 1

    def __init__(self, module: ModuleType | Any) -> None:
        self.name = "flash-attn-4"
        self._varlen = module.flash_attn_varlen_func

    def takes_head(self, head_dim: int) -> bool:
        on_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
        return super().takes_head(head_dim) and (on_hopper or head_dim <= 128)

    def over_runs(
        self, q: Tensor, k: Tensor, v: Tensor, runs: KeyRuns, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        out, lse = self._varlen(
            q,
            k,
            v,
            cu_seqlens_q=runs.query_ends,
            cu_seqlens_k=runs.offsets,
            max_seqlen_q=runs.most_queries,
            max_seqlen_k=runs.longest,
            seqused_k=runs.lengths,
            softmax_scale=scale,
            softcap=softcap or 0.0,
            return_lse=True,
        )
        return out, lse

    def among(
        self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, most: int, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        out, lse = self._varlen(
            q,
            k,
            v,
            cu_seqlens_q=ends,
            cu_seqlens_k=ends,
            max_seqlen_q=most,
            max_seqlen_k=most,
            softmax_scale=scale,
            causal=True,
            softcap=softcap or 0.0,
            return_lse=True,
        )
        return out, lse


def find_flash() -> FlashAPI | None:
    """The newest version that is installed and can be imported here, if any."""
    for load in (_load_4, _load_2):
        try:
            return load()
        except (ImportError, OSError):  # absent, or built for another torch
            continue
    return None


def _load_4() -> FlashAPI:
    import flash_attn.cute as module

    return FlashAttention4(module)


def _load_2() -> FlashAPI:
    import flash_attn as module

    if not hasattr(module, "flash_attn_varlen_func"):  # the folder that flash-attn-4 shares with it
        raise ImportError("flash_attn")
    return FlashAttention2(module)
