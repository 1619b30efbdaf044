"""What befalls a set of files between two questions: which slots take KV from where, and what of it is stale.

Knows how pieces are put together again, nothing of how they are then repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from benchmarks.repairs_cold import Cold, Colds, Piece

MIDDLE = 3
"""The file in the middle of each set."""


@dataclass(frozen=True)
class Run:
    """So many tokens: KV of `source` from slot `first` on, or computed anew if there is none.

    `suffix`: they stand behind a change of their own file.
    """

    length: int
    source: Cold | None = None
    first: int = 0
    suffix: bool = False


@dataclass(frozen=True)
class Moved:
    """KV from slots `first` … of `source`, which now is at slots `at` …."""

    source: Cold
    first: int
    at: int
    length: int


@dataclass(frozen=True)
class Stale:
    """Slots [first, end) whose KV a cold run would have computed otherwise."""

    first: int
    end: int
    suffix: bool


class Case:
    """A composition put together.

    Attributes:
        moved: where its KV is from.
        computed: int64, slots that no KV is used for.
        stale: runs of KV that isn't exact; `stale_files` without what stands behind a change of its own file.
        near: int64, all their slots.
        lost: float32 [tokens], the attention that each token of them paid to what is gone.
        gained: tokens that stand before a stale run which it has not read, at most.
    """

    def __init__(self, name: str, pieces: Sequence[Piece], parts: Sequence[Sequence[Run]]) -> None:
        self.name = name
        self.pieces = tuple(pieces)
        self.ids: Piece = tuple(token for piece in pieces for token in piece)
        self.moved: list[Moved] = []
        self.stale: list[Stale] = []
        self.lost = torch.zeros(len(self.ids))
        self.gained = 0
        computed: list[int] = []
        at = 0
        for number, runs in enumerate(parts):
            for run in runs:
                if run.source is None:
                    computed += range(at, at + run.length)
                elif run.length:
                    self._take(Moved(run.source, run.first, at, run.length), self.pieces[:number], run.suffix)
                at += run.length
        assert at == len(self.ids), (name, at, len(self.ids))
        self.computed = torch.tensor(computed, dtype=torch.int64)
        self.stale_files = [stale for stale in self.stale if not stale.suffix] or self.stale
        self.near = torch.cat([torch.arange(stale.first, stale.end) for stale in self.stale])

    def _take(self, run: Moved, before: Sequence[Piece], suffix: bool) -> None:
        self.moved.append(run)
        source, end = run.source, run.at + run.length
        if source.ids[: run.first + run.length] == self.ids[:end]:
            return
        self.stale.append(Stale(run.at, end, suffix))
        own = next(i for i in range(len(source.pieces)) if source.starts[i + 1] > run.first)
        gone = [i for i in range(own) if source.pieces[i] not in before] + [own] * suffix
        self.lost[run.at : end] = source.paid[run.first : run.first + run.length, gone].sum(1)
        self.gained = max(self.gained, sum(len(piece) for piece in before if piece not in source.pieces[:own]))


def _join(colds: Colds, name: str, source: Cold, files: Sequence[Piece], own: Mapping[Piece, list[Run]]) -> Case:
    """The files behind the head: KV as `own` says, else from `source`, and where that has none computed."""

    def runs(piece: Piece) -> list[Run]:
        if piece in own:
            return own[piece]
        if piece not in source.pieces:
            return [Run(len(piece))]
        return [Run(len(piece), source, source.starts[source.pieces.index(piece)])]

    pieces = (colds.head, *files)
    return Case(name, pieces, [runs(piece) for piece in pieces])


# -- the cases ---------------------------------------------------------------------------------------------------------


def _all(colds: Colds, *order: int) -> Cold:
    return colds.cold((colds.head, *(colds.files[i] for i in order or range(6))))


def _without(*gone: int) -> list[int]:
    return [i for i in range(6) if i not in gone]


def _order(name: str, before: Sequence[int], after: Sequence[int], colds: Colds, anchored: Sequence[int] = ()) -> Case:
    """Files come, go and move; those `anchored` have KV of standing right behind the head."""
    own = {}
    for index in anchored:
        piece = colds.files[index]
        own[piece] = [Run(len(piece), colds.cold((colds.head, piece)), len(colds.head))]
    return _join(colds, name, _all(colds, *before), [colds.files[i] for i in after], own)


def _edit(name: str, index: int, new: Piece, colds: Colds, *, seam: int | None = None) -> Case:
    """A file changes. Behind the change all of it is computed, or only `seam` tokens before what is as it was."""
    source, old = _all(colds), colds.files[index]
    begin = source.starts[index + 1]
    same = _common(old, new)
    rest = 0 if seam is None else max(0, _common(old[same:][::-1], new[same:][::-1]) - seam)
    runs = [
        Run(same, source, begin),
        Run(len(new) - same - rest),
        Run(rest, source, begin + len(old) - rest, suffix=True),
    ]
    return _join(colds, name, source, [new if i == index else colds.files[i] for i in range(6)], {new: runs})


def _recency(name: str, index: int, new: Piece, colds: Colds) -> Case:
    """A changed file is computed at the end, and no more where it was."""
    return _join(colds, name, _all(colds), [*(colds.files[i] for i in _without(index)), new], {})


def _common(one: Piece, other: Piece) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _value(colds: Colds) -> Piece:
    """The file with a value, with another."""
    return colds.file(colds.loaded.files[colds.loaded.set.defines][0], colds.loaded.edited)


def _line(colds: Colds, index: int, line: str, replaced: int) -> Piece:
    """A file with another line, indented like the first line of code behind the first 40 %, instead of it or before."""
    path, text = colds.loaded.files[index]
    lines = text.split("\n")
    code = (i for i, old in enumerate(lines) if old.strip() and not old.strip().startswith(("#", '"')))
    at = next(i for i in code if i >= int(len(lines) * 0.4))
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    return colds.file(path, "\n".join([*lines[:at], indent + line, *lines[at + replaced :]]))


def _edit_line(seam: int | None) -> Callable[[str, Colds], Case]:
    """The middle file has a line replaced; with a `seam`, a line put in."""

    def make(name: str, colds: Colds) -> Case:
        line, replaced = ("limit = 7", 1) if seam is None else ("retries = 7  # give up after that many", 0)
        return _edit(name, MIDDLE, _line(colds, MIDDLE, line, replaced), colds, seam=seam)

    return make


def _edit_value(seam: int | None) -> Callable[[str, Colds], Case]:
    return lambda name, colds: _edit(name, _base(colds), _value(colds), colds, seam=seam)


def _base(colds: Colds) -> int:
    return colds.loaded.set.defines


def _inserted(name: str, place: int, colds: Colds, *, anchored: bool) -> Case:
    """The file that uses another's value comes in, computed or with KV of its own."""
    user = colds.loaded.set.uses
    rest = _without(user)
    return _order(name, rest, [*rest[:place], user, *rest[place:]], colds, [user] if anchored else [])


CASES: dict[str, Callable[[str, Colds], Case]] = {
    "drop_first": lambda name, c: _order(name, range(6), _without(0), c),
    "drop_base": lambda name, c: _order(name, range(6), _without(_base(c)), c),
    "drop_mid": lambda name, c: _order(name, range(6), _without(MIDDLE), c),
    "drop_first_base": lambda name, c: _order(name, [_base(c), *_without(_base(c))], _without(_base(c)), c),
    "anchor_end": lambda name, c: _inserted(name, 5, c, anchored=True),
    "anchor_mid": lambda name, c: _inserted(name, 3, c, anchored=True),
    "anchor_all": lambda name, c: _order(name, range(6), range(6), c, anchored=range(1, 6)),
    "edit_mid": _edit_line(None),
    "edit_value": _edit_value(None),
    **{f"edit_suffix_w{seam}": _edit_line(seam) for seam in (0, 16, 64)},
    **{f"edit_value_suffix_w{seam}": _edit_value(seam) for seam in (0, 16, 64)},
    "recency_first": lambda name, c: _recency(name, 0, _line(c, 0, "limit = 7", 1), c),
    "recency_base": lambda name, c: _recency(name, _base(c), _value(c), c),
    "move_first_end": lambda name, c: _order(name, range(6), [*_without(0), 0], c),
    "swap_mid": lambda name, c: _order(name, range(6), [0, 1, 3, 2, 4, 5], c),
    "insert_mid": lambda name, c: _inserted(name, 3, c, anchored=False),
    "insert_front": lambda name, c: _order(name, _without(_base(c)), [_base(c), *_without(_base(c))], c),
}
"""How each case is made, given its name."""
