"""The ranks that compute one model together, as each of them sees it: NCCL between GPUs, gloo between CPU processes.

A group of its own and not torch's default one, so that a process may have several engines. Knows nothing of models.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import AllreduceOptions, ReduceOp, Store

from engine.parallel.shard import Shard

_LONGEST = timedelta(minutes=10)
"""That a rank waits for the others: some read their weights much longer. Whether they live is watched otherwise."""


class Group:
    """One rank of a group. All ranks must call the same methods in the same order.

    Attributes:
        rank, size: which of how many this is.
        device: what this rank computes on.
    """

    def __init__(self, store: Store, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._backend: Any = _nccl(store, rank, size) if device.type == "cuda" else _gloo(store, rank, size)
        self._sum = AllreduceOptions()
        self._sum.asyncOp = False  # on the current stream, without a detour over one of NCCL's own

    @property
    def shard(self) -> Shard:
        return Shard(self.rank, self.size)

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor`, contiguous and of one shape and dtype on all ranks, by the sum over ranks.

        All ranks get the same numbers, to the last bit. On CUDA it does not wait, and can be captured in a graph.
        """
        self._backend.allreduce([tensor], self._sum).wait()

    def least(self, number: int) -> int:
        """The least of the ranks' numbers."""
        found = torch.tensor([number], dtype=torch.int64, device=self.device)
        options = AllreduceOptions()
        options.reduceOp = ReduceOp(ReduceOp.MIN)
        options.asyncOp = False
        self._backend.allreduce([found], options).wait()
        return int(found.item())

    def same(self, number: int) -> bool:
        """Whether all ranks have the same number."""
        return self.least(number) == -self.least(-number)

    def abort(self) -> None:
        """Let go of whatever waits for another rank; the group can't be used any more."""
        if self.device.type == "cuda":
            self._backend.abort()


def meeting_place(size: int, port: int | None = None) -> Any:
    """The store by which ranks find each other: rank 0's own, or the one that listens at `port` of this host."""
    store = distributed.TCPStore  # type: ignore[attr-defined]
    return store("127.0.0.1", port or 0, size, is_master=port is None, wait_for_workers=False)


def _gloo(store: Store, rank: int, size: int) -> Any:
    return distributed.ProcessGroupGloo(store, rank, size, _LONGEST)


def _nccl(store: Store, rank: int, size: int) -> Any:
    # else torch ends the process when a peer does; here whoever waits is told (see `Followers`)
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = _LONGEST
    return distributed.ProcessGroupNCCL(store, rank, size, options)
