"""The part of a text that a run of lines is a later version of: it begins and ends as they do, and is much like them.

Knows lines only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ctx_lsp.chat.anchoring.lines import (
    Replacement,
    UnsureError,
    changes,
    common_indent,
    indent_of,
    likeness,
    reindented,
    similarity,
)

_ALIKE = 0.5
_NEARLY_ALIKE = 0.6
_MARGIN = 0.1
_FEWEST_ANCHORS = 2
_MOST_ENDS = 200


@dataclass(frozen=True)
class Region:
    """The lines from `start` to before `end`.

    Attributes:
        block: what they become, indented as they are.
        exact: the block's first and last lines stand there as they are in the block.
    """

    start: int
    end: int
    block: tuple[str, ...]
    exact: bool

    def replacements(self, lines: Sequence[str]) -> list[Replacement]:
        return changes(lines[self.start : self.end], self.block, self.start)


def find_region(lines: Sequence[str], block: Sequence[str], first: int = 0, last: int | None = None) -> Region | None:
    """Looks between the lines `first` and `last`. None if nothing there begins and ends so. Raises UnsureError.

    `block` has no blank lines at its edges.
    """
    last = len(lines) if last is None else last
    found = [
        (likeness(lines[start:end], region), Region(start, end, tuple(region), exact))
        for start in range(first, last)
        if lines[start].strip() == block[0].strip()
        for exact, region in [_as_there(lines[start], block)]
        for end in _ends(lines, start, last, region)
    ]
    return _best(found, _ALIKE, block)


def find_near_region(lines: Sequence[str], block: Sequence[str]) -> Region | None:
    """By lines that the text and the block have once each; those before and behind them must be similar one by one."""
    anchors = _anchors(lines, block)
    if len(anchors) < _FEWEST_ANCHORS:
        return None
    (head, start), (tail, end) = anchors[0], anchors[-1]
    start, end = start - head, end + len(block) - tail
    edges = [*range(head), *range(tail - len(block) + 1, 0)]
    if start < 0 or end > len(lines):
        return None
    pairs = [(block[at], lines[start + at] if at >= 0 else lines[end + at]) for at in edges]
    if any(similarity(mine, theirs) < _NEARLY_ALIKE for mine, theirs in pairs):
        return None
    _, region = _as_there(lines[anchors[0][1]], block, block[head])
    found = Region(start, end, tuple(region), False)
    return found if likeness(lines[start:end], region) >= _NEARLY_ALIKE else None


def _as_there(line: str, block: Sequence[str], own: str | None = None) -> tuple[bool, list[str]]:
    """Whether the block is indented as `line` is, and the block as it would be."""
    mine, theirs = indent_of(own if own is not None else block[0]), indent_of(line)
    if mine == theirs:
        return True, list(block)
    if theirs.startswith(mine) or mine.startswith(theirs):
        return False, _shifted(block, mine, theirs)
    return False, reindented(block, common_indent(block), theirs)


def _shifted(block: Sequence[str], mine: str, theirs: str) -> list[str]:
    """Every line as much further in, or out, as the first one; as far out as there is room."""
    if theirs.startswith(mine):
        extra = theirs[len(mine) :]
        return [extra + line if line.strip() else line for line in block]
    surplus = mine[len(theirs) :]
    return [line.removeprefix(surplus) for line in block]


def _ends(lines: Sequence[str], start: int, last: int, region: Sequence[str]) -> list[int]:
    """Behind each line that is the region's last one; the nearest ones where there are many."""
    if len(region) == 1:
        return [start + 1]
    wanted = region[-1].rstrip()
    return [index + 1 for index in range(start + 1, last) if lines[index].rstrip() == wanted][:_MOST_ENDS]


def _best(found: list[tuple[float, Region]], least: float, block: Sequence[str]) -> Region | None:
    """The region that is most like the block. Raises UnsureError if another is nearly as much so."""
    likely = sorted((pair for pair in found if pair[0] >= least), key=lambda pair: -pair[0])
    if not likely:
        return None
    score, best = likely[0]
    rivals = [region for other, region in likely[1:] if other > score - _MARGIN]
    if any(region.start != best.start or region.end != best.end for region in rivals):
        places = sorted({region.start + 1 for region in (best, *rivals)})
        where = ", ".join(map(str, places[:5]))
        raise UnsureError(f'what begins with "{block[0].strip()[:60]}" could be at several places (lines {where})')
    return best


def _anchors(lines: Sequence[str], block: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (index in block, index in lines) of lines that both have once, in the same order in both."""
    theirs, mine = _once(lines), _once(block)
    pairs = sorted((at, theirs[line]) for line, at in mine.items() if line in theirs)
    return pairs if all(a[1] < b[1] for a, b in pairwise(pairs)) else []


def _once(lines: Sequence[str]) -> dict[str, int]:
    seen: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        seen.setdefault(line.strip(), []).append(index)
    return {line: places[0] for line, places in seen.items() if len(places) == 1 and any(map(str.isalnum, line))}
