"""The ranks that compute one model together, as each of them sees it: NCCL between GPUs, gloo between CPU processes.

A group of its own and not torch's default one, so that a process may have several engines. Knows nothing of models.
"""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import AllreduceOptions, ReduceOp, Store

from engine.parallel.shard import Shard

_LOOPBACK = "127.0.0.1"

_LONGEST = timedelta(minutes=10)
"""That a rank waits for the others: some read their weights much longer. Whether they live is watched otherwise."""

_PATIENCE = 5.0
"""Seconds that giving back a group may take."""


class Group:
    """One rank of a group. All ranks must call the same methods in the same order.

    Attributes:
        rank, size: which of how many this is.
        device: what this rank computes on.
    """

    def __init__(self, store: Store, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._backend: Any = _nccl(store, rank, size) if device.type == "cuda" else _gloo(store, rank, size)
        self._aborted = False
        self._sum, self._least = _options(ReduceOp.SUM), _options(ReduceOp.MIN)

    @property
    def shard(self) -> Shard:
        return Shard(self.rank, self.size)

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor`, contiguous and of one shape and dtype on all ranks, by the sum over ranks.

        All ranks get the same numbers, to the last bit. On CUDA it does not wait, and can be captured in a graph.
        """
        self._reduce_(tensor, self._sum)

    def least(self, number: int) -> int:
        """The least of the ranks' numbers."""
        found = torch.tensor([number], dtype=torch.int64, device=self.device)
        self._reduce_(found, self._least)
        return int(found.item())

    def _reduce_(self, tensor: Tensor, options: AllreduceOptions) -> None:
        work = self._backend.allreduce([tensor], options)
        if work is not None:  # a backend that leaves waiting to the caller
            work.wait()

    def same(self, number: int) -> bool:
        """Whether all ranks have the same number."""
        return self.least(number) == -self.least(-number)

    def abort(self) -> None:
        """Let go of whatever waits for another rank; the group can't be used any more."""
        if self.device.type == "cuda" and not self._aborted:
            self._aborted = True
            # NCCL lets go at once, but may not return before all graphs are gone that it was captured in
            thread = threading.Thread(target=self._backend.abort, name="ctx-engine-abort", daemon=True)
            thread.start()
            thread.join(_PATIENCE)


def _options(operation: ReduceOp.RedOpType) -> AllreduceOptions:
    options = AllreduceOptions()
    options.reduceOp = ReduceOp(operation)
    options.asyncOp = False  # on the current stream, without a detour over one of NCCL's own
    return options


def meeting_place(size: int, port: int | None = None) -> Any:
    """The store by which ranks find each other: rank 0's own, or the one that listens at `port` of this host alone."""
    store = distributed.TCPStore  # type: ignore[attr-defined]
    if port is not None:
        return store(_LOOPBACK, port, size, is_master=False, wait_for_workers=False)
    listener = socket.create_server((_LOOPBACK, 0))  # torch would listen to other hosts as well
    port = listener.getsockname()[1]
    return store(_LOOPBACK, port, size, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _gloo(store: Store, rank: int, size: int) -> Any:
    gloo: Any = distributed.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=_LOOPBACK)]
    options._timeout = _LONGEST
    return gloo(store, rank, size, options)


def _nccl(store: Store, rank: int, size: int) -> Any:
    # else torch ends the process when a peer does; here whoever waits is told (see `Followers`)
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")  # GPUs of one host have other ways, but meet over a socket
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = _LONGEST
    return distributed.ProcessGroupNCCL(store, rank, size, options)
