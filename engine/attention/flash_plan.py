"""A step's rows as flash-attention takes them: each a few queries over one run of the pool, rotated by its Δ.

Host work in numpy, once per step; every layer reads the same plan. Knows nothing of devices or versions of the library.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.attention.base import AttentionRow
from engine.kv.virtual_block_table import Placement, Run, VirtualBlockTable

IntArray = NDArray[np.int32]

_FEWEST_KEYS = 256
"""Shorter parts of a run are not worth a program of their own."""

_TILE = 128
"""Queries, heads of a group counted apart, that one program of the library takes at once."""


@dataclass(frozen=True)
class PlannedRow:
    """An `AttentionRow` in the plan.

    Attributes:
        first, count: its new tokens among those of the step.
        parts: over how many runs they attend; `first_query` is the first query over the first of these.
        pieces, first_read: as many shares of attention it wants for each token, and where the first lies in the reads.
    """

    first: int
    count: int
    parts: int
    first_query: int
    pieces: int
    first_read: int


@dataclass(frozen=True, eq=False)
class FlashPlan:
    """One step.

    A *copy* is a new token's query rotated for one Δ; copies 0 … T − 1 are the T new tokens with Δ = 0. A *query* is a
    copy that looks at one run. The queries over one run lie together, in the order of their tokens, and so do the runs
    of one row: part p of a token is p · count behind part 0.

    Attributes:
        rows: the rows, in the order given.
        positions, slots: int64 [T], of the new tokens.
        copy_tokens, copy_positions: int64 [C], the token of each copy, and its position less Δ.
        query_copies, query_tokens: int64 [Q], the copy that each query is, and its token.
        query_ends: int32 [R + 1], where the queries of each run begin, and the end.
        run_slots, run_lengths: int32 [R], first slot and number of keys of each run; never 0.
        parts: int32 [T, 3], per token its first query, the distance to the next, and how many there are.
        notes: int64 [Q], where in the reads a query's share of attention belongs; `reads` if nowhere.
        reads: size of the reads.
        row_ends: int32 [rows + 1], where the new tokens of each row begin, and the end.
        among_new: whether new tokens attend to each other apart from the runs. If each row has but one, it is among
            the keys of a run instead.
    """

    rows: tuple[PlannedRow, ...]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    copy_tokens: NDArray[np.int64]
    copy_positions: NDArray[np.int64]
    query_copies: NDArray[np.int64]
    query_tokens: NDArray[np.int64]
    query_ends: IntArray
    run_slots: IntArray
    run_lengths: IntArray
    parts: IntArray
    notes: NDArray[np.int64]
    reads: int
    row_ends: IntArray
    among_new: bool


def make_plan(rows: Sequence[AttentionRow], block_size: int, *, group: int, kv_heads: int, programs: int) -> FlashPlan:
    """Plan a step of `rows`.

    Args:
        group: query heads per KV head.
        programs: about how many programs the device should get; long runs are parted so that it has them.
    """
    among_new = any(row.num_tokens > 1 for row in rows)
    runs = [_runs(row, block_size, with_new=not among_new) for row in rows]
    most = _most_keys(rows, runs, group, kv_heads, programs)
    planner = _Planner(sum(row.num_tokens for row in rows))
    for row, its_runs in zip(rows, runs, strict=True):
        places = (*row.pieces, row.table.tokens) if row.pieces else ()
        planner.add(row, [part for run in its_runs for part in _parts(run, places, most)], block_size)
    return planner.plan(among_new)


def _runs(row: AttentionRow, block_size: int, *, with_new: bool) -> list[Run]:
    """What is before the new tokens of a row, and where `with_new` these as well."""
    length = row.segment.filled + (row.num_tokens if with_new else 0)
    own = VirtualBlockTable.build([Placement(row.segment, 0, length)], block_size)
    return [*row.table.runs, *(Run(run.slot, run.length, run.start + row.table.tokens, 0) for run in own.runs)]


def _most_keys(
    rows: Sequence[AttentionRow], runs: Sequence[Sequence[Run]], group: int, kv_heads: int, programs: int
) -> int:
    """The longest part of a run, such that the device has work for `programs`."""
    tiles = [-(-row.num_tokens * group // _TILE) for row in rows]
    keys = [sum(run.length for run in its_runs) for its_runs in runs]
    work = kv_heads * sum(count * length for count, length in zip(tiles, keys, strict=True))
    return _FEWEST_KEYS * max(1, -(-work // (programs * _FEWEST_KEYS)))


def _parts(run: Run, places: Sequence[int], most: int) -> Iterator[Run]:
    """The run, parted at these global positions and so that no part has more than `most` keys."""
    inside = [place for place in places if run.start < place < run.start + run.length]
    for start, end in itertools.pairwise((run.start, *inside, run.start + run.length)):
        for first in range(start, end, most):
            yield Run(run.slot + first - run.start, min(most, end - first), first, run.delta)


class _Planner:
    """Collects the rows of a plan, whose new tokens number `tokens` in all."""

    def __init__(self, tokens: int) -> None:
        self._rows: list[PlannedRow] = []
        self._runs: list[Run] = []
        self._slots: list[int] = []
        self._positions: list[NDArray[np.int64]] = []
        self._copies: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # tokens, positions
        self._queries: list[
            tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
        ] = []  # copies, tokens, notes
        self._next_copy = tokens
        self._next_query = self._next_read = 0

    def add(self, row: AttentionRow, runs: Sequence[Run], block_size: int) -> None:
        """The next row, over these runs."""
        first, count = len(self._slots), row.num_tokens
        tokens = np.arange(first, first + count)
        positions = np.arange(row.position, row.position + count)
        self._rows.append(PlannedRow(first, count, len(runs), self._next_query, len(row.pieces), self._next_read))
        self._slots += row.segment.slots(row.segment.filled, count, block_size)
        self._positions.append(positions)
        begins = self._copies_of(runs, tokens, positions)
        ends = (*row.pieces, row.table.tokens)
        for run in runs:
            copies = np.arange(begins[run.delta], begins[run.delta] + count)
            piece = int(np.searchsorted(ends, run.start, side="right")) - 1
            notes = tokens - first + self._next_read + piece * count
            noted = 0 <= piece < len(row.pieces)
            self._queries.append((copies, tokens, notes if noted else np.full_like(notes, -1)))
        self._runs += runs
        self._next_query += len(runs) * count
        self._next_read += len(row.pieces) * count

    def _copies_of(
        self, runs: Sequence[Run], tokens: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> dict[int, int]:
        """For each Δ of the runs the first of the row's copies for it."""
        begins = {0: int(tokens[0])}
        for run in runs:
            if run.delta not in begins:
                begins[run.delta] = self._next_copy
                self._next_copy += len(tokens)
                self._copies.append((tokens, positions - run.delta))
        return begins

    def plan(self, among_new: bool) -> FlashPlan:
        positions = np.concatenate(self._positions)
        counts = np.array([row.count for row in self._rows], dtype=np.int32)
        runs_per_row = [row.parts for row in self._rows]
        none = np.empty(0, dtype=np.int64)
        copies, tokens, notes = (
            np.concatenate((none, *column)) for column in (zip(*self._queries, strict=True) if self._runs else [()] * 3)
        )
        parts = [np.tile((row.first_query, row.count, row.parts), (row.count, 1)) for row in self._rows]
        within = [np.arange(row.count) for row in self._rows]
        columns = np.concatenate(parts).astype(np.int32)
        columns[:, 0] += np.concatenate(within).astype(np.int32)
        return FlashPlan(
            rows=tuple(self._rows),
            positions=positions,
            slots=np.array(self._slots, dtype=np.int64),
            copy_tokens=np.concatenate((np.arange(len(positions)), *(tokens for tokens, _ in self._copies))),
            copy_positions=np.concatenate((positions, *(places for _, places in self._copies))),
            query_copies=copies,
            query_tokens=tokens,
            query_ends=_ends(np.repeat(counts, runs_per_row)),
            run_slots=np.array([run.slot for run in self._runs], dtype=np.int32),
            run_lengths=np.array([run.length for run in self._runs], dtype=np.int32),
            parts=columns,
            notes=np.where(notes < 0, self._next_read, notes),
            reads=self._next_read,
            row_ends=_ends(counts),
            among_new=among_new,
        )


def _ends(counts: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
