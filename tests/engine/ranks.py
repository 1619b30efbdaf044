"""The ranks of a small model as threads of one process, and the logits that each of them gets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from engine.attention.dense import attend
from engine.models.decoder import Decoder
from engine.parallel.group import Group, meeting_place
from engine.parallel.messages import LoadShard


@torch.inference_mode()
def logits_of(decoder: Decoder) -> Tensor:
    """Behind a few tokens that have nothing before them, and are not told apart by their positions."""
    ids = torch.arange(7)
    return decoder.logits(decoder.forward(ids, ids, _attend))


def logits_of_ranks(load: LoadShard, size: int) -> list[Tensor]:
    """`logits_of` the shards that `load` makes for each rank."""
    store = meeting_place(size)

    def compute(rank: int) -> Tensor:
        place: Any = meeting_place(size, store.port) if rank else store
        return logits_of(load(Group(place, rank, size, torch.device("cpu")), None)[0])

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(compute, range(size)))


def _attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.transpose(0, 1) for part in (q, k, v))
    return attend(q, k, v, scale=q.shape[-1] ** -0.5, causal=True)[0].transpose(0, 1)
