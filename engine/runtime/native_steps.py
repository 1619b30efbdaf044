"""Steps of few tokens on a CPU, computed by the native library in one call: answers, drafts, short questions.

Lays a step's rows out as arrays; knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from engine.attention.base import AttentionRow
from engine.kv.pool import KVPool
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.native.abi import MOST_TOKENS
from engine.native.stepper import StepArrays, Stepper
from engine.native.threads import Threads
from engine.runtime.scheduler import StepRow


class NativeSteps:
    """`SmallSteps` of a CPU, of up to `most` tokens."""

    def __init__(self, stepper: Stepper, pool: KVPool, most: int = MOST_TOKENS) -> None:
        self._most = most
        self._stepper = stepper
        self._threads = Threads(stepper.threads)
        self._pool = pool

    def run(self, rows: Sequence[StepRow], wanted: Sequence[int]) -> Tensor | None:
        """Logits of the places `wanted`, float32 [wanted, vocab]; None if the step has too many tokens.

        Places are counted over all rows' tokens.
        """
        tokens = sum(row.row.num_tokens for row in rows)
        if tokens > self._most or not wanted or any(row.row.pieces for row in rows):
            return None
        self._pool.tokens_written += tokens
        self._stepper.threads = self._threads.now
        logits = self._stepper.step(arrays_of(rows, wanted, self._pool.block_size))
        self._threads.note(self._stepper.kept)
        return logits

    def release(self) -> None:
        self._stepper.close()


def arrays_of(rows: Sequence[StepRow], wanted: Sequence[int], block_size: int) -> StepArrays:
    """The step as the library reads it."""
    positions, slots, spans, runs = list[int](), list[int](), list[tuple[int, ...]](), list[np.ndarray]()
    for row in (step_row.row for step_row in rows):
        first_run = sum(map(len, runs))
        seen = _seen(row, block_size)
        spans.append((len(slots), row.num_tokens, first_run, sum(map(len, seen))))
        runs += seen
        positions += range(row.position, row.position + row.num_tokens)
        slots += row.segment.slots(row.segment.filled, row.num_tokens, block_size)
    return StepArrays(
        ids=np.concatenate([row.tokens for row in rows]).astype(np.int32, copy=False),
        positions=np.array(positions, dtype=np.int32),
        slots=np.array(slots, dtype=np.int32),
        rows=np.array(spans, dtype=np.int32),
        runs=np.concatenate(runs),
        wanted=np.array(wanted, dtype=np.int32),
    )


def _seen(row: AttentionRow, block_size: int) -> list[np.ndarray]:
    """Runs of what the row's last token sees: the table, and its own segment up to that token."""
    own = VirtualBlockTable.build([Placement(row.segment, 0, row.segment.filled + row.num_tokens)], block_size)
    slot, length, start, _ = own.run_columns.T
    return [row.table.run_columns, np.stack((slot, length, start + row.table.tokens, np.zeros_like(slot)), 1)]
