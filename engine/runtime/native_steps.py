"""Steps of few tokens on a CPU, computed by the native library in one call: answers, drafts, short questions.

Lays a step's rows out as arrays; knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import AttentionRow, RowResult
from engine.attention.seen_runs import parted, pieces_of, seen_runs
from engine.kv.pool import KVPool
from engine.native.abi import MOST_TOKENS
from engine.native.stepper import IntArray, StepArrays, Stepper
from engine.native.threads import Threads
from engine.runtime.scheduler import StepRow


class NativeSteps:
    """`SmallSteps` of a CPU, of up to `most` tokens."""

    def __init__(self, stepper: Stepper, pool: KVPool, most: int = MOST_TOKENS) -> None:
        self._most = most
        self._stepper = stepper
        self._threads = Threads(stepper.threads)
        self._pool = pool

    def run(self, rows: Sequence[StepRow], wanted: Sequence[int]) -> tuple[Tensor, list[RowResult]] | None:
        """See `SmallSteps`; None if the step has too many tokens."""
        tokens = sum(row.row.num_tokens for row in rows)
        if tokens > self._most:
            return None
        self._pool.tokens_written += tokens
        self._stepper.threads = self._threads.now
        stepped = self._stepper.step(arrays_of(rows, wanted, self._pool.block_size))
        self._threads.note(self._stepper.kept)
        return stepped.logits, _results(rows, stepped.read)

    def release(self) -> None:
        self._stepper.close()


def arrays_of(rows: Sequence[StepRow], wanted: Sequence[int], block_size: int) -> StepArrays:
    """The step as the library reads it."""
    positions, slots, spans, runs = list[int](), list[int](), list[tuple[int, ...]](), list[IntArray]()
    pieces = list[IntArray]()
    for row in (step_row.row for step_row in rows):
        first_run = sum(map(len, runs))
        seen, its_pieces = _seen(row, block_size)
        spans.append((len(slots), row.num_tokens, first_run, len(seen)))
        runs.append(seen)
        pieces.append(its_pieces)
        positions += range(row.position, row.position + row.num_tokens)
        slots += row.segment.slots(row.segment.filled, row.num_tokens, block_size)
    return StepArrays(
        ids=np.concatenate([row.tokens for row in rows]).astype(np.int32, copy=False),
        positions=np.array(positions, dtype=np.int32),
        slots=np.array(slots, dtype=np.int32),
        rows=np.array(spans, dtype=np.int32),
        runs=np.concatenate(runs),
        wanted=np.array(wanted, dtype=np.int32),
        pieces=np.concatenate(pieces),
        most_pieces=max(len(row.row.pieces) for row in rows),
    )


def _seen(row: AttentionRow, block_size: int) -> tuple[IntArray, IntArray]:
    """Runs of what the row's last token sees, parted where pieces begin, and the piece that each is part of."""
    runs = seen_runs(row, block_size)
    if not row.pieces:
        return runs, np.full(len(runs), -1, dtype=np.int32)
    runs = parted(runs, (*row.pieces, row.table.tokens))
    return runs, pieces_of(runs, row.pieces, row.table.tokens)


def _results(rows: Sequence[StepRow], read: NDArray[np.float32] | None) -> list[RowResult]:
    """What `read` [tokens, pieces] says of each row."""
    results, first = list[RowResult](), 0
    for row in (step_row.row for step_row in rows):
        end, pieces = first + row.num_tokens, len(row.pieces)
        if read is not None and pieces and row.table.tokens:
            results.append(RowResult(read=read[first:end, :pieces].T.astype(np.float16)))
        else:
            results.append(RowResult())
        first = end
    return results
