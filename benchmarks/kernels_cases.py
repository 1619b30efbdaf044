"""What the attention kernels are timed on: a pool of KV, segments in it, and rows of new tokens behind them.

All the layers of a model are gone through one after the other, so that a small context is not found in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
import torch
from torch import Tensor

from engine.attention.base import AttentionBackend, AttentionRow
from engine.kv.pool import KVPool
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.models.decoder_config import DecoderConfig
from engine.models.rotary import RotaryTable

ONE, MANY, MOVED = "one segment", "32 segments", "32 moved, blocks shuffled"
_SEGMENTS = 32
_BLOCK = 64
_UNEVEN = 23
"""Tokens that moved segments are longer and shorter, in turn, so that their last blocks are partly filled."""


@dataclass(frozen=True)
class Case:
    """`new` tokens behind `before` others that lie in the pool as `layout` says."""

    new: int
    before: int
    layout: str

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key it sees, per head."""
        return self.new * self.before + self.new * (self.new + 1) // 2


@dataclass(frozen=True)
class Stage:
    """A case set up: its pool, rotary table and row, and new q, k, v for each layer."""

    pool: KVPool
    rotary: RotaryTable
    row: AttentionRow
    qkv: tuple[tuple[Tensor, Tensor, Tensor], ...]

    def run(self, backend: AttentionBackend) -> Callable[[], None]:
        """All layers of one step, planned already."""
        backend.plan([self.row])

        @torch.inference_mode()
        def step() -> None:
            for layer, (q, k, v) in enumerate(self.qkv):
                backend(layer, q, k, v)

        return step


def set_up(case: Case, config: DecoderConfig, layers: int, device: torch.device, dtype: torch.dtype) -> Stage:
    """The case with random KV in so many layers of the model's shape."""
    segments, blocks = _segments(case)
    total = blocks + -(-case.new // _BLOCK)
    pool = KVPool([(config.num_kv_heads, config.head_dim)] * layers, total, _BLOCK, dtype=dtype, device=device)
    for tensor in (*pool.keys, *pool.values):
        tensor.normal_()
    placements, start = list[Placement](), 0
    for segment in segments:
        placements.append(Placement(segment, start, len(segment.tokens)))
        start += len(segment.tokens)
    table = VirtualBlockTable.build(placements, _BLOCK)
    own = _segment(case.new, table.tokens, list(range(blocks, total)), filled=0)
    length = 2 * max(config.max_position, case.before + case.new)
    return Stage(
        pool=pool,
        rotary=RotaryTable.of(config.rope, length, device),
        row=AttentionRow(table, own, case.new),
        qkv=tuple(_new_tokens(case.new, config, device, dtype) for _ in range(layers)),
    )


def _segments(case: Case) -> tuple[list[Segment], int]:
    """The segments that stand before the new tokens, in prompt order, and how many blocks they take."""
    if not case.before:
        return [], 0
    count = 1 if case.layout == ONE else min(_SEGMENTS, case.before // (4 * _UNEVEN) or 1)
    lengths = [case.before // count + (index < case.before % count) for index in range(count)]
    if case.layout == MOVED:
        lengths = [length + (_UNEVEN if index % 2 else -_UNEVEN) for index, length in enumerate(lengths)]
        lengths[-1] += case.before - sum(lengths)
    needed = [-(-length // _BLOCK) for length in lengths]
    blocks = list(range(sum(needed)))
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    if case.layout == MOVED:
        draw = Random(1)
        draw.shuffle(blocks)
        draw.shuffle(starts)
    firsts = np.cumsum([0, *needed]).tolist()
    own = [blocks[first:end] for first, end in pairwise(firsts)]
    found = [_segment(*each) for each in zip(lengths, starts, own, lengths, strict=True)]
    return found, len(blocks)


def _segment(length: int, start: int, blocks: list[int], filled: int) -> Segment:
    return Segment(b"kernels", np.arange(length, dtype=np.int32), start, blocks, filled)


def _new_tokens(
    count: int, config: DecoderConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """q [count, heads, head_dim] and k, v [count, kv_heads, head_dim]."""
    q, k, v = (
        torch.randn(count, heads, config.head_dim, dtype=dtype, device=device)
        for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    )
    return q, k, v
