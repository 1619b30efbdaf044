"""Old lines that become new ones: what diffs and search blocks come down to. Knows lines and places, no formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctx_lsp.chat.anchoring.lines import Replacement, UnsureError, changes
from ctx_lsp.chat.anchoring.locate import Place, locate, same_indentation


@dataclass(frozen=True)
class Hunk:
    """`hint` is the index of the line where `old` is said to begin."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    hint: int | None = None


def place_all(lines: Sequence[str], hunks: Sequence[Hunk], *, ordered: bool) -> tuple[list[Replacement], bool]:
    """The changes, and whether all old lines stand there exactly. Raises UnsureError.

    `ordered`: each hunk stands behind the one before, and where that was shifted, this one is.
    """
    replacements: list[Replacement] = []
    exact, first, shift = True, 0, 0
    for hunk in hunks:
        hint = None if hunk.hint is None else hunk.hint + shift
        place = _place(lines, hunk, first if ordered else 0, hint)
        replacements += _changes(lines, hunk, place)
        exact = exact and place.exact
        if ordered:
            first = place.start + len(hunk.old)
            shift = place.start - hunk.hint if hunk.hint is not None else shift
    return replacements, exact


def _place(lines: Sequence[str], hunk: Hunk, first: int, hint: int | None) -> Place:
    if hunk.old:
        return locate(lines, hunk.old, first=first, hint=hint)
    if lines:
        raise UnsureError("a change quotes nothing of the text, so that its place can't be told")
    return Place(0, exact=True)


def _changes(lines: Sequence[str], hunk: Hunk, place: Place) -> list[Replacement]:
    """Lines that the hunk keeps stay as the text has them."""
    new = hunk.new if place.exact else [same_indentation(line, place) for line in hunk.new]
    old = hunk.old if place.exact else [same_indentation(line, place) for line in hunk.old]
    return changes(old, new, place.start, kept=lines[place.start : place.start + len(old)])
