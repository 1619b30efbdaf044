"""Tries what a block can be, from the plainest to the least: `anchor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ctx_lsp.chat.anchoring.diffs import is_diff, read_diff
from ctx_lsp.chat.anchoring.ellipsis import fill_in, has_ellipsis
from ctx_lsp.chat.anchoring.hunks import place_all
from ctx_lsp.chat.anchoring.lines import Edit, Replacement, SourceText, UnsureError, changes, without_blank_edges
from ctx_lsp.chat.anchoring.redefine import redefine
from ctx_lsp.chat.anchoring.regions import find_near_region, find_region
from ctx_lsp.chat.anchoring.search_replace import is_search_replace, read_search_replace
from ctx_lsp.chat.anchoring.whole import is_whole_file

How = Literal["exact", "fuzzy"]


@dataclass(frozen=True)
class Anchored:
    """What a block changes in a text.

    Attributes:
        edits: in order and apart; none where the text is as the block has it already.
        how: ``exact`` where what the block starts from stands in the text as the block has it.
        summary: for people.
    """

    edits: tuple[Edit, ...]
    how: How
    summary: str


def anchor(text: str, block: str, language: str | None = None) -> Anchored:
    """Finds where the block belongs in the text. Raises UnsureError."""
    source, lines = SourceText(text), SourceText(block).lines
    if not any(line.strip() for line in lines):
        raise UnsureError("the block is empty")
    if is_search_replace(lines):
        return _anchored(source, *place_all(source.lines, read_search_replace(lines), ordered=False), "search blocks")
    if is_diff(lines, language):
        hunks, ends_with_newline = read_diff(lines)
        placed = place_all(source.lines, hunks, ordered=True)
        return _anchored(source, *placed, "a diff", ends_with_newline)
    if not any(line.strip() for line in source.lines):
        if has_ellipsis(lines):
            raise UnsureError("the block leaves something out, and the text is empty")
        return _anchored(source, [Replacement(0, len(source.lines), lines)], True, "the whole text")
    found = next(_attempts(source, without_blank_edges(lines)), None)
    if found is None:
        raise UnsureError("nothing in the text is like the block")
    return found


def _attempts(source: SourceText, block: Sequence[str]) -> Iterator[Anchored]:
    lines = source.lines
    if has_ellipsis(block):
        yield _anchored(source, *fill_in(lines, block), "the parts around what stays")
    if is_whole_file(lines, block):
        first = next(at for at, line in enumerate(lines) if line.strip())
        yield _anchored(source, changes(without_blank_edges(lines), block, first), True, "the whole text")
    redefinition = redefine(lines, block)
    if redefinition is not None:
        yield _anchored(source, redefinition.replacements, redefinition.exact, ", ".join(redefinition.names))
    region = find_region(lines, block) or find_near_region(lines, block)
    if region is not None:
        yield _anchored(source, region.replacements(lines), region.exact, f"lines {region.start + 1}–{region.end}")


def _anchored(
    source: SourceText, replacements: list[Replacement], exact: bool, what: str, ends_with_newline: bool | None = None
) -> Anchored:
    return Anchored(source.edits(replacements, ends_with_newline), "exact" if exact else "fuzzy", what)
