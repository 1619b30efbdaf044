"""A step's rows as one array of integers that kernels read: which keys each tile of queries visits, and how.

Host work in numpy, once per step; every layer and every kernel reads the same array. Kernels find its parts by offsets
in its header, so a captured CUDA graph goes on working when the rows change. Knows nothing of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.attention.base import AttentionRow
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import VirtualBlockTable

IntArray = NDArray[np.int32]

ENTRY_TOKENS = 64
"""Most key slots that a kernel reads at once."""

HEADER = 64
ENTRIES_AT, SPANS_AT, NOTES_AT, NOTES, KINDS = 0, 1, 2, 3, 4
"""Indices into the header; of kind i, four from KINDS + 4·i: where its works and merges are, and how many."""
MOST_KINDS = (HEADER - KINDS) // 4

UNREAD = -(1 << 30)
"""In place of where to write: what may be written to begins at minus the row's first token."""

ENTRY, SPAN, WORK, MERGE, NOTE = 4, 5, 10, 4, 4
"""Integers per record."""

_NARROW_SPLIT, _WIDE_SPLIT = 2, 8
"""Fewest entries for which a part of a row's keys gets a program of its own: few queries, many queries."""


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

    - entry (slot, valid, start, 0): up to ENTRY_TOKENS keys in consecutive slots, the first standing at `start`;
    - span (first entry, end, Δ, read, end of full ones): entries that share a Δ, of which only the last may hold less
      than ENTRY_TOKENS; what each token read of it goes to `read` + token, or nowhere if `read` is UNREAD;
    - work (token, count, position, first span, end, first entry, end, part, first?, clear): a tile of queries over some
      keys; its result is final if `part` is −1, else goes to so many partial slots from there on; all its queries see
      all keys of entries before `clear`, as far as no window is in their way;
    - merge (token, part, stride, parts): where the partial results of a token are;
    - note (read, share, token, count): how a span's `read` adds to the shares of attention.

    Attributes:
        new_tokens: how many of the places are taken.
        last_entries: for each row, where in `data` the last entry of its keys is.
        reads: for each row its shares, None if it wants none.
        read_slots, shares: sizes of the buffers of what spans and pieces were paid.
    """

    data: IntArray
    tokens: int
    new_tokens: int
    last_entries: IntArray
    shape: Shape
    reads: tuple[ReadRow | None, ...]
    read_slots: int
    shares: int


@dataclass(frozen=True, eq=False)
class _Keys:
    """What one row's queries may see, in parts that can be attended to apart.

    Attributes:
        entries: [E, 4], `spans`: [S, 5] without their reads.
        pieces: [S], the piece that each span is in, −1 for none.
        splits: [P, 4], first span, end, first entry, end.
    """

    entries: IntArray
    spans: IntArray
    pieces: IntArray
    splits: IntArray


def make_plan(
    rows: Sequence[AttentionRow],
    kinds: Sequence[Kind],
    block_size: int,
    *,
    programs: int,
    head_dim: int,
    tokens: int | None = None,
    block_m: int | None = None,
) -> StepPlan:
    """Plan a step of `rows`.

    Args:
        programs: about how many programs the device should get; rows are split so that it has them.
        head_dim: the largest of the layers.
        tokens: places for new tokens, if there shall be more than there are tokens.
        block_m: rows of a tile; None chooses.
    """
    counts = np.array([row.num_tokens for row in rows], dtype=np.int32)
    block_m = block_m or choose_block_m(int(counts.max()), max(kind.group for kind in kinds), head_dim)
    length = _split_length(rows, counts, kinds, block_m, programs)
    keys = [_keys_of(row, length, block_size) for row in rows]
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
        packer.last_entries,
        shape,
        reads,
        packer.read_slots,
        packer.shares,
    )


def advance(plan: StepPlan, kinds: int, block_size: int) -> bool:
    """Make the plan that of the next step of answers that go on as they are: each row one token, one place further.

    Only numbers are raised, which is far quicker than planning. False, and the plan is as it was, where the next token
    begins another block or entry.

    Args:
        kinds: how many kinds of layers there are.
    """
    data, count = plan.data, plan.new_tokens
    slots = data[HEADER + 2 * plan.tokens : HEADER + 2 * plan.tokens + count]
    valid = plan.last_entries + 1
    if ((slots + 1) % block_size == 0).any() or (data[valid] >= ENTRY_TOKENS).any():
        return False
    slots += 1
    data[HEADER + plan.tokens : HEADER + plan.tokens + count] += 1
    data[valid] += 1
    for kind in range(kinds):
        at, works = data[KINDS + 4 * kind : KINDS + 4 * kind + 2].tolist()
        data[at + 2 : at + 2 + works * WORK : WORK] += 1
    return True


def choose_block_m(most_tokens: int, group: int, head_dim: int) -> int:
    """Rows of a tile for rows of so many tokens: as few as hold a whole row, but no more than fit on the chip."""
    widest = 128 if head_dim <= 128 else 64
    wanted = next((size for size in (16, 64) if most_tokens * group <= size), widest)
    return max(wanted, 1 << (group - 1).bit_length())


def _split_length(
    rows: Sequence[AttentionRow], counts: IntArray, kinds: Sequence[Kind], block_m: int, programs: int
) -> int:
    """Entries per split, the same for all rows of a step and for as long as what stands before them is the same."""
    kind = kinds[0]
    tiles = -(-counts // (block_m // kind.group))
    lengths = [row.segment.filled + row.num_tokens for row in rows]
    entries = np.array([len(row.table.block_ids) for row in rows]) + -(-np.array(lengths) // ENTRY_TOKENS)
    fewest = _NARROW_SPLIT if block_m == 16 else _WIDE_SPLIT
    return max(fewest, -(-int((tiles * entries).sum()) * kind.kv_heads // programs))


# -- keys ----------------------------------------------------------------------------------------------------------


def _keys_of(row: AttentionRow, length: int, block_size: int) -> _Keys:
    """The keys of the table, in splits of `length` entries, and in splits of their own those of the row's segment."""
    own = _keys_in(_own_entries(row.segment, row.segment.filled + row.num_tokens, row.table.tokens, block_size), length)
    if not row.table.tokens:
        return own
    table = _keys_of_table(row.table, length, row.pieces)
    entries, spans = len(table.entries), len(table.spans)
    return _Keys(
        np.concatenate((table.entries, own.entries)),
        np.concatenate((table.spans, own.spans + np.array((entries, entries, 0, 0, entries), dtype=np.int32))),
        np.concatenate((table.pieces, own.pieces)),
        np.concatenate((table.splits, own.splits + np.array((spans, spans, entries, entries), dtype=np.int32))),
    )


@lru_cache(maxsize=64)
def _keys_of_table(table: VirtualBlockTable, length: int, pieces: tuple[int, ...]) -> _Keys:
    """The table's keys; while an answer is decoded they stay the same from step to step."""
    return _keys_in(_table_entries(table, pieces), length, pieces)


def _keys_in(entries: IntArray, length: int, pieces: tuple[int, ...] = ()) -> _Keys:
    """Entries [E, 4] of slot, valid, start and Δ in splits of `length`; a piece begins at each of `pieces`."""
    count = len(entries)
    numbers = np.arange(count, dtype=np.int32)
    piece = np.searchsorted(pieces, entries[:, 2], side="right").astype(np.int32) - 1
    deltas, valid = entries[:, 3].copy(), entries[:, 1]
    new = np.ones(count, dtype=bool)
    new[1:] = (deltas[1:] != deltas[:-1]) | (piece[1:] != piece[:-1]) | (valid[:-1] < ENTRY_TOKENS)
    new[::length] = True
    begins = np.flatnonzero(new).astype(np.int32)
    ends = np.append(begins[1:], count).astype(np.int32)
    full_ends = ends - (valid[ends - 1] < ENTRY_TOKENS)
    spans = np.stack((begins, ends, deltas[begins], np.zeros_like(begins), full_ends), 1)
    splits = numbers[::length]
    split_ends = np.minimum(splits + length, count)
    first_spans, end_spans = np.searchsorted(begins, splits), np.searchsorted(begins, split_ends)
    entries[:, 3] = 0
    parts = np.stack((first_spans, end_spans, splits, split_ends), 1).astype(np.int32)
    return _Keys(entries, spans.astype(np.int32), piece[begins], parts)


def _table_entries(table: VirtualBlockTable, pieces: tuple[int, ...]) -> IntArray:
    """[E, 4] slot, valid, start, Δ: the table's runs cut to at most ENTRY_TOKENS, and where pieces begin."""
    runs = np.array([(run.slot, run.length, run.start, run.delta) for run in table.runs], dtype=np.int32)
    if len(runs) and len(pieces):
        runs = _parted(runs, np.array(pieces, dtype=np.int32))
    return _entries(runs.reshape(-1, 4))


def _parted(runs: IntArray, places: IntArray) -> IntArray:
    """The runs [R, 4], cut at these global positions, ascending."""
    starts, ends = runs[:, 2], runs[:, 2] + runs[:, 1]
    owner = np.searchsorted(starts, places, side="right") - 1
    inside = (places > starts[owner]) & (places < ends[owner])
    all_starts = np.sort(np.concatenate((starts, places[inside])))
    of = np.searchsorted(starts, all_starts, side="right") - 1
    all_ends = np.minimum(np.append(all_starts[1:], ends[-1]), ends[of])
    moved = all_starts - starts[of]
    return np.stack((runs[of, 0] + moved, all_ends - all_starts, all_starts, runs[of, 3]), 1).astype(np.int32)


def _entries(runs: IntArray) -> IntArray:
    """Runs [R, 4] of slot, length, start, Δ cut into entries of the same form."""
    counts = -(-runs[:, 1] // ENTRY_TOKENS)
    of = np.repeat(np.arange(len(runs)), counts)
    moved = (np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)) * ENTRY_TOKENS
    valid = np.minimum(runs[of, 1] - moved, ENTRY_TOKENS)
    return np.stack((runs[of, 0] + moved, valid, runs[of, 2] + moved, runs[of, 3]), 1).astype(np.int32)


def _own_entries(segment: Segment, length: int, start: int, block_size: int) -> IntArray:
    """Entries of the first `length` tokens of the segment that a row computes; it stands where it is computed."""
    blocks = segment.blocks[: -(-length // block_size)]
    runs: list[list[int]] = []
    for index, block in enumerate(blocks):
        size = min(block_size, length - index * block_size)
        if runs and runs[-1][0] + runs[-1][1] == block * block_size:
            runs[-1][1] += size
        else:
            runs.append([block * block_size, size, start + index * block_size, 0])
    return _entries(np.array(runs, dtype=np.int32))


# -- works ---------------------------------------------------------------------------------------------------------


def _works_of(
    kind: Kind, block_m: int, rows: Sequence[AttentionRow], keys: Sequence[_Keys], packer: _Packer
) -> tuple[IntArray, IntArray]:
    """All works and merges of one kind of layer."""
    works, merges = list[IntArray](), list[IntArray]()
    parts = 0
    for index, row in enumerate(rows):
        found = _row_works(kind, block_m // kind.group, row, keys[index])
        bases = (packer.token_base[index], packer.span_base[index], packer.entry_base[index])
        parts = _place(*found, bases, parts, works, merges)
    placed = np.concatenate(works)
    order = np.argsort(placed[:, 5] - placed[:, 6], kind="stable")  # the longest first, so that none is left alone
    return placed[order], np.concatenate(merges)


def _row_works(kind: Kind, tile_tokens: int, row: AttentionRow, keys: _Keys) -> tuple[IntArray, IntArray]:
    """(works [W, 10] with indices that begin with this row, how many works each tile has [tiles])."""
    firsts = np.arange(0, row.num_tokens, tile_tokens, dtype=np.int32)
    counts = np.minimum(row.num_tokens - firsts, tile_tokens)
    positions = firsts + row.position
    starts = keys.entries[:, 2]
    ends = np.searchsorted(starts, positions + counts - 1, side="right")
    clear = np.searchsorted(starts + keys.entries[:, 1] - 1, positions, side="right")
    begins = np.zeros_like(ends)
    if kind.window is not None:
        begins = np.searchsorted(starts + keys.entries[:, 1], positions - kind.window + 1, side="right")
    splits = keys.splits
    low = np.maximum(splits[None, :, 2], begins[:, None])
    high = np.minimum(splits[None, :, 3], ends[:, None])
    tile, split = np.nonzero(low < high)
    numbers = np.bincount(tile, minlength=len(firsts))
    first = np.append(True, tile[1:] != tile[:-1])
    columns = (firsts[tile], counts[tile], positions[tile], splits[split, 0], splits[split, 1])
    works = np.stack((*columns, low[tile, split], high[tile, split], np.zeros_like(tile), first, clear[tile]), 1)
    return works.astype(np.int32), numbers.astype(np.int32)


def _place(
    found: IntArray,
    numbers: IntArray,
    bases: tuple[int, int, int],
    parts: int,
    works: list[IntArray],
    merges: list[IntArray],
) -> int:
    """Move a row's works to where its tokens, spans and entries begin, and give them partial slots from `parts` on."""
    token, span, entry = bases
    counts = found[np.cumsum(numbers) - numbers, 1]
    split = numbers > 1
    slots = np.where(split, numbers * counts, 0)
    at = parts + np.cumsum(slots) - slots
    tile = np.repeat(np.arange(len(numbers)), numbers)
    rank = np.arange(len(found)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
    found[:, 7] = np.where(split[tile], at[tile] + rank * counts[tile], -1)
    firsts = found[np.cumsum(numbers) - numbers, 0]
    found += np.array((token, 0, 0, span, span, entry, entry, 0, 0, entry), dtype=np.int32)
    works.append(found)
    tokens = np.repeat(np.flatnonzero(split), counts[split])
    within = np.arange(len(tokens)) - np.repeat(np.cumsum(counts[split]) - counts[split], counts[split])
    columns = (firsts[tokens] + within + token, at[tokens] + within, counts[tokens], numbers[tokens])
    merges.append(np.stack(columns, 1).astype(np.int32))
    return parts + int(slots.sum())


# -- packing -------------------------------------------------------------------------------------------------------


class _Packer:
    """Lays the parts of a plan one behind the other."""

    def __init__(self, rows: Sequence[AttentionRow], counts: IntArray, keys: Sequence[_Keys], tokens: int) -> None:
        self._rows, self._counts, self._keys = rows, counts, keys
        self.tokens = tokens
        self.token_base = np.cumsum(counts) - counts
        self.entry_base = _bases([len(found.entries) for found in keys])
        self.entry_count = sum(len(found.entries) for found in keys)
        self.span_base = _bases([len(found.spans) for found in keys])
        self.reads: list[ReadRow | None] = []
        self.read_slots = self.shares = 0
        self.last_entries = np.empty(0, dtype=np.int32)
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
            base = self.entry_base[index]
            moved = found.spans + np.array((base, base, 0, 0, base), dtype=np.int32)
            moved[:, 3], noted = self._reads_of(index, found)
            spans.append(moved)
            notes.append(noted)
        at = self._add(np.concatenate([found.entries for found in self._keys]))
        self._header[ENTRIES_AT] = at
        ends = np.append(self.entry_base[1:], self.entry_count)
        self.last_entries = (at + ENTRY * (ends - 1)).astype(np.int32)
        self._header[SPANS_AT] = self._add(np.concatenate(spans))
        all_notes = np.concatenate(notes)
        self._header[NOTES_AT], self._header[NOTES] = self._add(all_notes), len(all_notes)

    def _reads_of(self, index: int, keys: _Keys) -> tuple[IntArray, IntArray]:
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


def _bases(lengths: Sequence[int]) -> IntArray:
    return (np.cumsum(lengths) - lengths).astype(np.int32)


def _slots(row: AttentionRow, block_size: int) -> IntArray:
    """Pool slots of the row's new tokens."""
    at = np.arange(row.segment.filled, row.segment.filled + row.num_tokens)
    blocks = np.array(row.segment.blocks[at[0] // block_size : at[-1] // block_size + 1])
    slots: IntArray = (blocks[at // block_size - at[0] // block_size] * block_size + at % block_size).astype(np.int32)
    return slots
