"""Blocks that are one or several definitions: each takes the place of the one of the same name.

A class that lacks some of what it had is taken for an excerpt: only what it has changes. Knows lines only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctx_lsp.chat.anchoring.definitions import Definition, definitions, is_whole
from ctx_lsp.chat.anchoring.lines import (
    Replacement,
    UnsureError,
    changes,
    likeness,
    reindented,
    without_blank_edges,
)

_ALIKE = 0.5
_MARGIN = 0.2


@dataclass(frozen=True)
class Redefinition:
    """What changes, whether all of it is indented as in the block, and the names of what is changed."""

    replacements: list[Replacement]
    exact: bool
    names: tuple[str, ...]


def redefine(lines: Sequence[str], block: Sequence[str]) -> Redefinition | None:
    """None if the block is more than definitions, or none of them is in the text. Raises UnsureError."""
    mine = definitions(block)
    theirs = tuple(all_within(definitions(lines)))
    if not mine or not {one.name for one in mine} & {one.name for one in theirs}:
        return None
    present = {line.strip() for line in lines}
    if any(line.strip() not in present for line in outside(block, mine, 0, len(block))):
        return None
    return Merge(lines, block).merge(theirs, mine)


class Merge:
    """One block's way into one text."""

    def __init__(self, lines: Sequence[str], block: Sequence[str]) -> None:
        self._lines = lines
        self._block = block
        self._exact = True
        self._names: list[str] = []

    def merge(
        self, theirs: Sequence[Definition], mine: Sequence[Definition], behind: Definition | None = None
    ) -> Redefinition:
        """New ones go behind the one before them in the block, or behind `behind`. Raises UnsureError."""
        replacements = self._merge(theirs, mine, behind)
        return Redefinition(replacements, self._exact, tuple(self._names))

    def _merge(
        self, theirs: Sequence[Definition], mine: Sequence[Definition], behind: Definition | None = None
    ) -> list[Replacement]:
        replacements: list[Replacement] = []
        for new in mine:
            self._names.append(new.name)
            old = self._find(theirs, new)
            if old is not None:
                replacements += self._replace(old, new)
                behind = old
            elif behind is not None:
                replacements.append(self._insert(behind, new))
            else:
                raise UnsureError(f"there is no {new.name} in the text, nor anything that it should go behind")
        return replacements

    def _find(self, theirs: Sequence[Definition], new: Definition) -> Definition | None:
        """The one of that name; of several the one that is most like it, if none other is nearly as much so."""
        block = self._block[new.start : new.end]
        same = [one for one in theirs if one.name == new.name]
        scores = [likeness(self._lines[one.start : one.end], block) for one in same]
        ranked = sorted(zip(scores, same, strict=True), key=lambda pair: -pair[0])
        if len(ranked) > 1 and (ranked[0][0] < _ALIKE or ranked[0][0] - ranked[1][0] < _MARGIN):
            places = ", ".join(str(one.heading + 1) for one in same)
            raise UnsureError(f"{new.name} is defined several times (lines {places})")
        return ranked[0][1] if ranked else None

    def _replace(self, old: Definition, new: Definition) -> list[Replacement]:
        if not is_whole(self._lines[old.start : old.end]):
            raise UnsureError(f"where {old.name} ends can't be told")
        missing = {one.name for one in old.inner} - {one.name for one in new.inner}
        if missing:
            return self._replace_inner(old, new, missing)
        start = old.top if new.top < new.start else old.start
        return changes(self._lines[start : old.end], self._moved(new.top, new.end, new, old), start)

    def _replace_inner(self, old: Definition, new: Definition, missing: set[str]) -> list[Replacement]:
        present = {line.strip() for line in self._lines[old.start : old.end]}
        own = outside(self._block, new.inner, new.start, new.end)
        if not new.inner or any(line.strip() not in present for line in own):
            raise UnsureError(f"the block's {new.name} lacks {', '.join(sorted(missing))}")
        return self._merge(old.inner, new.inner)

    def _insert(self, old: Definition, new: Definition) -> Replacement:
        """Behind `old`, as far away as that is from what is before it."""
        above = len(without_blank_edges(self._lines[: old.top]))
        gap = [""] * max(1, old.top - above if above else 1)
        return Replacement(old.end, old.end, (*gap, *self._moved(new.top, new.end, new, old)))

    def _moved(self, start: int, end: int, new: Definition, old: Definition) -> list[str]:
        """Lines of the block, as far in as the text has what they belong to."""
        self._exact = self._exact and new.indent == old.indent
        return reindented(self._block[start:end], new.indent, old.indent)


def all_within(found: Sequence[Definition]) -> Iterator[Definition]:
    for one in found:
        yield one
        yield from all_within(one.inner)


def outside(lines: Sequence[str], found: Sequence[Definition], start: int, end: int) -> list[str]:
    """The lines that aren't blank and are part of none of these."""
    within = {at for one in found for at in range(one.top, one.end)}
    return [lines[at] for at in range(start, end) if at not in within and lines[at].strip()]
