"""Blocks that are a whole file, written anew. Knows lines only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ctx_lsp.chat.anchoring.definitions import Definition, definitions
from ctx_lsp.chat.anchoring.lines import likeness

_ALIKE = 0.5
_KEPT = 0.6


def is_whole_file(lines: Sequence[str], block: Sequence[str]) -> bool:
    """Whether the block has all that the text defines, most of what stands between, and reaches from end to end."""
    theirs, mine = definitions(lines), definitions(block)
    if not _names(theirs) <= _names(mine) or likeness(lines, block) < _ALIKE:
        return False
    between = _between(lines, theirs)
    kept = between & _between(block, mine)
    return kept.total() >= _KEPT * between.total() and _reaches(lines, block, theirs)


def _names(found: Sequence[Definition]) -> set[str]:
    """Of all definitions, those within others by the way to them."""
    return {name for one in found for name in (one.name, *(f"{one.name} {inner}" for inner in _names(one.inner)))}


def _between(lines: Sequence[str], found: Sequence[Definition]) -> Counter[str]:
    """The lines that are part of no definition."""
    within = {at for one in found for at in range(one.start, one.end)}
    return Counter(line.strip() for at, line in enumerate(lines) if at not in within and line.strip())


def _reaches(lines: Sequence[str], block: Sequence[str], theirs: Sequence[Definition]) -> bool:
    """Whether the first and the last line are in the block, or of definitions that are."""
    written = [at for at, line in enumerate(lines) if line.strip()]
    defined = {at for one in theirs for at in range(one.top, one.end)}
    present = {line.strip() for line in block}
    return all(at in defined or lines[at].strip() in present for at in (written[0], written[-1]))
