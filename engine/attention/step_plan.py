"""A step's rows as one array of integers that kernels read: which keys each tile of queries visits, and how.

Host work in numpy, once per step; every layer and every kernel reads the same array. Kernels find its parts by offsets
in its header, so a captured CUDA graph goes on working when the rows change. Knows nothing of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.attention.base import AttentionRow
from engine.attention.row_keys import IntArray, RowKeys, keys_of

TILE = 64
"""Keys that a kernel reads at once."""

HEADER = 64
SPANS_AT, NOTES_AT, NOTES, KINDS = 0, 1, 2, 3
"""Indices into the header; of kind i, four from KINDS + 4·i: where its works and merges are, and how many."""
MOST_KINDS = (HEADER - KINDS) // 4

UNREAD = -(1 << 30)
"""In place of where to write: what may be written to begins at minus the row's first token."""

SPAN, WORK, MERGE, NOTE = 5, 9, 4, 4
"""Integers per record."""

_NARROW_SPLIT, _WIDE_SPLIT = 2 * TILE, 8 * TILE
"""Fewest keys for which a part of a row's keys gets a program of its own: few queries, many queries."""


@dataclass(frozen=True)
class Kind:
    """What the work of a layer depends on besides the rows.

    Attributes:
        group: query heads per KV head.
        window: as `LayerSpec.window`.
        kv_heads: each of them is a program of its own.
    """

    group: int
    window: int | None
    kv_heads: int


@dataclass(frozen=True)
class Shape:
    """What a step's kernels are compiled and launched for.

    Attributes:
        block_m: rows of a tile, query heads and tokens together.
        works, merges: per kind how many programs are started at least.
        parts: slots for partial results.
    """

    block_m: int
    works: tuple[int, ...]
    merges: tuple[int, ...]
    parts: int


@dataclass(frozen=True)
class ReadRow:
    """A row that wants to know what it read: its shares are at [first, first + pieces · count) of the buffer."""

    first: int
    pieces: int
    count: int


@dataclass(frozen=True, eq=False)
class StepPlan:
    """One step.

    `data` is int32: the header; for each of `tokens` places its token id, position, slot (−1: nothing is written), and
    a place that logits are wanted of (token ids and wanted places are left to whoever runs the model); then records:

    - span (slot, start, end, Δ, read): keys in consecutive slots that stand at `start` … `end` and share a Δ; what each
      token read of it goes to `read` + token, or nowhere if `read` is UNREAD;
    - work (token, count, position, first span, end span, low, high, part, first?): a tile of queries over the keys that
      stand at `low` … `high`; its result is final if `part` is −1, else goes to so many partial slots from there on;
    - merge (token, part, stride, parts): where the partial results of a token are;
    - note (read, share, token, count): how a span's `read` adds to the shares of attention.

    Attributes:
        new_tokens: how many of the places are taken.
        last_spans: for each row, where in `data` the last span of its keys is.
        reads: for each row its shares, None if it wants none.
        read_slots, shares: sizes of the buffers of what spans and pieces were paid.
    """

    data: IntArray
    tokens: int
    new_tokens: int
    last_spans: IntArray
    shape: Shape
    reads: tuple[ReadRow | None, ...]
    read_slots: int
    shares: int


def make_plan(
    rows: Sequence[AttentionRow],
    kinds: Sequence[Kind],
    block_size: int,
    *,
    programs: int,
    tokens: int | None = None,
    block_m: int | None = None,
) -> StepPlan:
    """Plan a step of `rows`.

    Args:
        programs: about how many programs the device should get; rows are split so that it has them.
        tokens: places for new tokens, if there shall be more than there are tokens.
        block_m: rows of a tile; None chooses.
    """
    counts = np.array([row.num_tokens for row in rows], dtype=np.int32)
    block_m = block_m or choose_block_m(int(counts.max()), max(kind.group for kind in kinds))
    length = _split_length(rows, counts, kinds, block_m, programs)
    keys = [keys_of(row, length, block_size) for row in rows]
    packer = _Packer(rows, counts, keys, int(counts.sum()) if tokens is None else tokens)
    packer.add_tokens(block_size)
    packer.add_keys()
    works, merges, parts = [], [], 0
    for index, kind in enumerate(kinds):
        found = _works_of(kind, block_m, rows, keys, packer)
        packer.add_kind(index, *found)
        works.append(len(found[0]))
        merges.append(len(found[1]))
        parts = max(parts, int((found[1][:, 3]).sum()))
    shape = Shape(block_m, tuple(works), tuple(merges), parts)
    reads = tuple(packer.reads)
    return StepPlan(
        packer.packed(),
        packer.tokens,
        int(counts.sum()),
        packer.last_spans,
        shape,
        reads,
        packer.read_slots,
        packer.shares,
    )


def advance(plan: StepPlan, kinds: int, block_size: int) -> bool:
    """Make the plan that of the next step of answers that go on as they are: each row one token, one place further.

    Only numbers are raised, which is far quicker than planning. False, and the plan is as it was, where the next token
    begins another block.

    Args:
        kinds: how many kinds of layers there are.
    """
    data, count = plan.data, plan.new_tokens
    slots = data[HEADER + 2 * plan.tokens : HEADER + 2 * plan.tokens + count]
    if ((slots + 1) % block_size == 0).any():
        return False
    slots += 1
    data[HEADER + plan.tokens : HEADER + plan.tokens + count] += 1
    data[plan.last_spans + 2] += 1
    for kind in range(kinds):
        at, length = data[KINDS + 4 * kind : KINDS + 4 * kind + 2].tolist()
        works = data[at : at + length * WORK].reshape(length, WORK)
        works[:, 6] += works[:, 6] > works[:, 2]
        works[:, 2] += 1
    return True


def choose_block_m(most_tokens: int, group: int) -> int:
    """Rows of a tile for rows of so many tokens. More than 64 were slower on an H100, whatever the warps."""
    return max(16 if most_tokens * group <= 16 else 64, 1 << (group - 1).bit_length())


def _split_length(
    rows: Sequence[AttentionRow], counts: IntArray, kinds: Sequence[Kind], block_m: int, programs: int
) -> int:
    """Keys per split, the same for all rows of a step; while an answer is decoded it seldom changes."""
    kind = kinds[0]
    tiles = -(-counts // (block_m // kind.group))
    keys = np.array([-(-(row.position + row.num_tokens) // TILE) for row in rows])
    fewest = _NARROW_SPLIT if block_m == 16 else _WIDE_SPLIT
    return max(fewest, TILE * -(-int((tiles * keys).sum()) * kind.kv_heads // programs))


# -- works ---------------------------------------------------------------------------------------------------------


def _works_of(
    kind: Kind, block_m: int, rows: Sequence[AttentionRow], keys: Sequence[RowKeys], packer: _Packer
) -> tuple[IntArray, IntArray]:
    """All works and merges of one kind of layer."""
    works, merges = list[IntArray](), list[IntArray]()
    parts = 0
    for index, row in enumerate(rows):
        found = _row_works(kind, block_m // kind.group, row, keys[index])
        parts = _place(*found, packer.token_base[index], packer.span_base[index], parts, works, merges)
    placed = np.concatenate(works)
    order = np.argsort(placed[:, 5] - placed[:, 6], kind="stable")  # the longest first, so that none is left alone
    return placed[order], np.concatenate(merges)


def _row_works(kind: Kind, tile_tokens: int, row: AttentionRow, keys: RowKeys) -> tuple[IntArray, IntArray]:
    """(works [W, 9] with indices that begin with this row, how many works each tile has [tiles])."""
    firsts = np.arange(0, row.num_tokens, tile_tokens, dtype=np.int32)
    counts = np.minimum(row.num_tokens - firsts, tile_tokens)
    positions = firsts + row.position
    begins = np.zeros_like(positions)
    if kind.window is not None:
        begins = np.maximum(positions - kind.window + 1, 0)
    splits = keys.splits
    low = np.maximum(splits[None, :, 2], begins[:, None])
    high = np.minimum(splits[None, :, 3], (positions + counts)[:, None])
    tile, split = np.nonzero(low < high)
    numbers = np.bincount(tile, minlength=len(firsts))
    first = np.append(True, tile[1:] != tile[:-1])
    columns = (firsts[tile], counts[tile], positions[tile], splits[split, 0], splits[split, 1])
    works = np.stack((*columns, low[tile, split], high[tile, split], np.zeros_like(tile), first), 1)
    return works.astype(np.int32), numbers.astype(np.int32)


def _place(
    found: IntArray,
    numbers: IntArray,
    token: int,
    span: int,
    parts: int,
    works: list[IntArray],
    merges: list[IntArray],
) -> int:
    """Move a row's works to where its tokens and spans begin, and give them partial slots from `parts` on."""
    counts = found[np.cumsum(numbers) - numbers, 1]
    split = numbers > 1
    slots = np.where(split, numbers * counts, 0)
    at = parts + np.cumsum(slots) - slots
    tile = np.repeat(np.arange(len(numbers)), numbers)
    rank = np.arange(len(found)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    found[:, 7] = np.where(split[tile], at[tile] + rank * counts[tile], -1)
    firsts = found[np.cumsum(numbers) - numbers, 0]
    found += np.array((token, 0, 0, span, span, 0, 0, 0, 0), dtype=np.int32)
    works.append(found)
    tokens = np.repeat(np.flatnonzero(split), counts[split])
    within = np.arange(len(tokens)) - np.repeat(np.cumsum(counts[split]) - counts[split], counts[split])
    columns = (firsts[tokens] + within + token, at[tokens] + within, counts[tokens], numbers[tokens])
    merges.append(np.stack(columns, 1).astype(np.int32))
    return parts + int(slots.sum())


# -- packing -------------------------------------------------------------------------------------------------------


class _Packer:
    """Lays the parts of a plan one behind the other."""

    def __init__(self, rows: Sequence[AttentionRow], counts: IntArray, keys: Sequence[RowKeys], tokens: int) -> None:
        self._rows, self._counts, self._keys = rows, counts, keys
        self.tokens = tokens
        self.token_base = np.cumsum(counts) - counts
        self._span_ends = np.cumsum([len(found.spans) for found in keys])
        self.span_base = self._span_ends - [len(found.spans) for found in keys]
        self.reads: list[ReadRow | None] = []
        self.read_slots = self.shares = 0
        self.last_spans = np.empty(0, dtype=np.int32)
        self._header = np.zeros(HEADER, dtype=np.int32)
        self._parts: list[IntArray] = [self._header]
        self._length = HEADER

    def _add(self, part: IntArray) -> int:
        """Append; returns where it begins."""
        at = self._length
        self._parts.append(part.reshape(-1))
        self._length += part.size
        return at

    def add_tokens(self, block_size: int) -> None:
        places = np.zeros((4, self.tokens), dtype=np.int32)
        places[2] = -1
        for row, base in zip(self._rows, self.token_base.tolist(), strict=True):
            new = slice(base, base + row.num_tokens)
            places[1, new] = np.arange(row.position, row.position + row.num_tokens)
            places[2, new] = _slots(row, block_size)
        self._add(places)

    def add_keys(self) -> None:
        spans, notes = [], []
        for index, found in enumerate(self._keys):
            reads, noted = self._reads_of(index, found)
            spans.append(np.column_stack((found.spans, reads)))
            notes.append(noted)
        at = self._add(np.concatenate(spans))
        self._header[SPANS_AT] = at
        self.last_spans = (at + SPAN * (self._span_ends - 1)).astype(np.int32)
        all_notes = np.concatenate(notes)
        self._header[NOTES_AT], self._header[NOTES] = self._add(all_notes), len(all_notes)

    def _reads_of(self, index: int, keys: RowKeys) -> tuple[IntArray, IntArray]:
        """Where each span of a row says what was read of it, and the notes [n, 4] that add this up by piece."""
        row, base = self._rows[index], int(self.token_base[index])
        if not row.pieces or not row.table.tokens:
            self.reads.append(None)
            return np.full(len(keys.spans), UNREAD, dtype=np.int32), np.empty((0, NOTE), dtype=np.int32)
        count, watched = row.num_tokens, keys.pieces >= 0
        read = np.where(watched, self.read_slots + np.cumsum(watched) * count - count - base, UNREAD)
        share = self.shares + keys.pieces * count - base
        notes = np.stack((read, share, np.full_like(share, base), np.full_like(share, count)), 1)[watched]
        self.reads.append(ReadRow(self.shares, len(row.pieces), count))
        self.read_slots += int(watched.sum()) * count
        self.shares += len(row.pieces) * count
        return read.astype(np.int32), notes.astype(np.int32)

    def add_kind(self, index: int, works: IntArray, merges: IntArray) -> None:
        fields = self._add(works), len(works), self._add(merges), len(merges)
        self._header[KINDS + 4 * index : KINDS + 4 * index + 4] = fields

    def packed(self) -> IntArray:
        return np.concatenate(self._parts)


def _slots(row: AttentionRow, block_size: int) -> IntArray:
    """Pool slots of the row's new tokens."""
    at = np.arange(row.segment.filled, row.segment.filled + row.num_tokens)
    blocks = np.array(row.segment.blocks[at[0] // block_size : at[-1] // block_size + 1])
    slots: IntArray = (blocks[at // block_size - at[0] // block_size] * block_size + at % block_size).astype(np.int32)
    return slots
