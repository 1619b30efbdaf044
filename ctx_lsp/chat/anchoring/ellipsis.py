"""Blocks that leave out what stays: `# … existing code …` between the parts that changed.

A part that is whole definitions takes the place of those of the same names. Any other takes the place of what it is a
later version of, and its lines that resemble nothing there go beside their neighbours. Knows lines only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ctx_lsp.chat.anchoring.definitions import definitions
from ctx_lsp.chat.anchoring.lines import Replacement, UnsureError, changes, indent_of, similarity, without_blank_edges
from ctx_lsp.chat.anchoring.redefine import Merge, all_within, outside
from ctx_lsp.chat.anchoring.regions import find_region

_OPENING = r"\s*(?:#|//|--|;|%|/\*|<!--|\{/\*|\"|\()\s*"
_CLOSING = r"\s*(?:\*/|-->|\*/\}|\))?\s*"
_DOTS = r"(?:\.\.\.|…)"
_WORDS = (
    r"\b(?:existing|rest|remaining|unchanged|previous|other|same|omitted|keep|as before|code|here|imports|methods)\b"
)
_SAID = r"[\w ,'()-]*"
_ELLIPSIS = re.compile(
    rf"{_OPENING}(?:{_DOTS}|{_DOTS}{_SAID}{_WORDS}.*|{_SAID}{_WORDS}{_SAID}{_DOTS}){_CLOSING}", re.IGNORECASE
)
_RESEMBLES = 0.6
_MOST_NEW = 0.5


def has_ellipsis(block: Sequence[str]) -> bool:
    return any(map(is_ellipsis, block))


def is_ellipsis(line: str) -> bool:
    return _ELLIPSIS.fullmatch(line) is not None


@dataclass(frozen=True)
class _Part:
    """Lines between ellipses.

    Attributes:
        before, behind: the indentation of the ellipsis there; None where the block begins or ends.
    """

    lines: list[str]
    before: str | None
    behind: str | None

    @property
    def name(self) -> str:
        return f'the part that begins with "{self.lines[0].strip()[:60]}"'


@dataclass(frozen=True)
class _Placed:
    """What a part changes, whether it was found as it is, and where what is behind it begins."""

    replacements: list[Replacement]
    exact: bool
    end: int


def fill_in(lines: Sequence[str], block: Sequence[str]) -> tuple[list[Replacement], bool]:
    """The changes, and whether every part was found as it is. Raises UnsureError."""
    scope = _scope(lines, block)
    first, last = scope or (0, len(lines))
    replacements: list[Replacement] = []
    exact = True
    for part in _parts(block):
        placed = _redefined(lines, part, first, last)
        if placed is None and scope is not None:
            placed = _ending(lines, part, first, last)
        placed = placed or _placed(lines, part, first, last)
        replacements += placed.replacements
        exact, first = exact and placed.exact, placed.end
    return replacements, exact


def _scope(lines: Sequence[str], block: Sequence[str]) -> tuple[int, int] | None:
    """Where to look: in the definition that the block is about, if it is about one, from its beginning to its end."""
    mine = definitions(block)
    if len(mine) == 1 and not outside(block, mine, 0, len(block)):
        theirs = [one for one in all_within(definitions(lines)) if one.name == mine[0].name]
        if len(theirs) == 1:
            return theirs[0].start, theirs[0].end
    return None


def _parts(block: Sequence[str]) -> list[_Part]:
    cuts = [-1, *(at for at, line in enumerate(block) if is_ellipsis(line)), len(block)]
    parts = []
    for start, end in pairwise(cuts):
        before = indent_of(block[start]) if start >= 0 else None
        behind = indent_of(block[end]) if end < len(block) else None
        parts.append(_Part(without_blank_edges(block[start + 1 : end]), before, behind))
    return [part for part in parts if part.lines]


# -- parts that are definitions ----------------------------------------------------------------------------------------


def _redefined(lines: Sequence[str], part: _Part, first: int, last: int) -> _Placed | None:
    """None if the part is anything else, or a definition that goes on behind the ellipsis."""
    mine = definitions(part.lines)
    if not mine or outside(part.lines, mine, 0, len(part.lines)) or part.before is None:
        return None
    if part.behind is not None and len(part.behind) > len(mine[-1].indent):
        return None
    theirs = tuple(all_within(definitions(lines, first, last)))
    siblings = [one for one in theirs if one.end == last] or theirs[-1:]
    behind = siblings[-1] if siblings and part.behind is None else None
    merged = Merge(lines, part.lines).merge(theirs, mine, behind)
    ends = (one.end for one in theirs if one.name in merged.names)
    return _Placed(merged.replacements, merged.exact, max(ends, default=first))


# -- other parts -------------------------------------------------------------------------------------------------------


def _placed(lines: Sequence[str], part: _Part, first: int, last: int) -> _Placed:
    known = {line.strip() for line in lines[first:last] if any(map(str.isalnum, line))}
    found = [at for at, line in enumerate(part.lines) if line.strip() in known]
    if not found:
        return _outermost(lines, part, first, last)
    head, tail = found[0], found[-1] + 1
    region = find_region(lines, part.lines[head:tail], first, last)
    if region is None:
        raise UnsureError(f"nothing in the text is like {part.name}")
    above, below = part.lines[:head], part.lines[tail:]
    start = _reach_up(lines, above, region.start, first)
    end = _reach_down(lines, below, region.end, last)
    new_above, new_below = len(above) - (region.start - start), len(below) - (end - region.end)
    stray = (new_above and part.before is None and start > first) or (new_below and part.behind is None and end < last)
    if stray or new_above + new_below > _MOST_NEW * len(part.lines):
        raise UnsureError(f"too much of {part.name} is new to tell where it belongs")
    replacements = changes(lines[start:end], [*above, *region.block, *below], start)
    return _Placed(replacements, region.exact and (start, end) == (region.start, region.end), end)


def _reach_up(lines: Sequence[str], above: Sequence[str], start: int, first: int) -> int:
    """Where the lines begin that those of the part above its first known one are later versions of."""
    for line in reversed(above):
        if start <= first or similarity(line, lines[start - 1]) < _RESEMBLES:
            break
        start -= 1
    return start


def _reach_down(lines: Sequence[str], below: Sequence[str], end: int, last: int) -> int:
    for line in below:
        if end >= last or similarity(line, lines[end]) < _RESEMBLES:
            break
        end += 1
    return end


def _ending(lines: Sequence[str], part: _Part, first: int, last: int) -> _Placed | None:
    """Where the block ends as what it is about does: each line is a later version of one of the last ones."""
    start = _reach_up(lines, part.lines, last, first)
    if part.behind is not None or last - start != len(part.lines):
        return None
    return _Placed(changes(lines[start:last], part.lines, start), list(lines[start:last]) == part.lines, last)


def _outermost(lines: Sequence[str], part: _Part, first: int, last: int) -> _Placed:
    """Lines that are all new belong at the end, or at the beginning, if the block says that much."""
    if last != len(lines) or indent_of(part.lines[0]):
        raise UnsureError(f"nothing in the text is like {part.name}")
    if part.before is not None and part.behind is None:
        gap = [""] if lines and lines[-1].strip() else []
        return _Placed([Replacement(last, last, (*gap, *part.lines))], True, last)
    if part.before is None and part.behind is not None and first == 0:
        return _Placed([Replacement(0, 0, tuple(part.lines))], True, 0)
    raise UnsureError(f"there is no place to be seen for {part.name}")
