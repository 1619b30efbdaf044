"""How long a backend takes for a typical step, measured on the device. Knows nothing of which backends there are.

It computes over a pool in which nothing is kept yet, so it is for the time when a model is loaded.
"""

from __future__ import annotations

import numpy as np
import torch

from engine.attention.base import AttentionBackend, AttentionRow
from engine.kv.pool import KVPool
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.models.language_model import LanguageModel

_SEGMENTS, _SEGMENT_TOKENS = 32, 1024
"""What stands before a question: files of this size, each moved by another distance."""

_WARM_UP, _REPEATS = 3, 20


@torch.inference_mode()
def time_step(backend: AttentionBackend, pool: KVPool, decoder: LanguageModel, count: int) -> float:
    """Milliseconds of one layer, the first, in a step of `count` new tokens, launches of its kernels included.

    Kernels that are compiled when they are first needed are compiled before.
    """
    spec, written = decoder.layers[0], pool.tokens_written
    inputs = [
        torch.randn(count, heads, spec.head_dim, dtype=decoder.dtype, device=decoder.device)
        for heads in (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    ]
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    try:
        backend.plan([_row(pool, decoder, count)])
        for repeat in range(_WARM_UP + _REPEATS):
            if repeat == _WARM_UP:
                torch.cuda.synchronize(decoder.device)
                begin.record()
            backend(0, *inputs)
        end.record()
        end.synchronize()
    finally:
        pool.tokens_written = written
    return float(begin.elapsed_time(end)) / _REPEATS


def _row(pool: KVPool, decoder: LanguageModel, count: int) -> AttentionRow:
    """`count` new tokens behind as many segments as the pool and the model have room for."""
    size = pool.block_size
    blocks, own = -(-_SEGMENT_TOKENS // size), -(-count // size)
    room = min((pool.num_blocks - own) // blocks, (decoder.max_position - count) // _SEGMENT_TOKENS)
    placements = []
    for index in range(max(0, min(_SEGMENTS, room))):
        start = index * _SEGMENT_TOKENS
        segment = _segment(range(index * blocks, (index + 1) * blocks), start // 2, _SEGMENT_TOKENS)
        placements.append(Placement(segment, start, _SEGMENT_TOKENS))
    table = VirtualBlockTable.build(placements, size)
    first = len(placements) * blocks
    return AttentionRow(table, _segment(range(first, first + own), table.tokens, 0, count), count)


def _segment(blocks: range, start: int, filled: int, room: int = 0) -> Segment:
    return Segment(b"", np.zeros(filled + room, dtype=np.int32), start, list(blocks), filled)
