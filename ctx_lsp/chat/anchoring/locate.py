"""Where lines that a model quotes stand in a text: as they are, at another indentation, or nearly so.

Knows lines only. What isn't found, or found twice, is an UnsureError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ctx_lsp.chat.anchoring.lines import UnsureError, common_indent, similarity

_SIMILAR = 0.85
_LINE_SIMILAR = 0.6
_MARGIN = 0.1
_MOST_TRIED = 20


@dataclass(frozen=True)
class Place:
    """The lines from `start` on are meant, as many as were looked for.

    Attributes:
        exact: they are as they were quoted.
        quoted_indent, indent: what the quoted lines have in common at their beginnings, and what these have.
    """

    start: int
    exact: bool
    quoted_indent: str = ""
    indent: str = ""


def locate(lines: Sequence[str], wanted: Sequence[str], *, first: int = 0, hint: int | None = None) -> Place:
    """Finds `wanted` from the line `first` on. Of several places only the one at `hint` will do. Raises UnsureError."""
    starts = range(first, len(lines) - len(wanted) + 1)
    exact = [start for start in starts if _equal(lines, wanted, start)]
    if exact:
        return Place(_only(exact, hint, wanted), exact=True)
    quoted = common_indent(wanted)
    bare = [line.removeprefix(quoted).rstrip() for line in wanted]
    loose = [start for start in starts if _loosely(lines[start : start + len(wanted)]) == bare]
    start = _only(loose, hint, wanted) if loose else _nearly(lines, wanted, first)
    return Place(start, False, quoted, common_indent(lines[start : start + len(wanted)]))


def _equal(lines: Sequence[str], wanted: Sequence[str], start: int) -> bool:
    return all(lines[start + index] == line for index, line in enumerate(wanted))


def _loosely(window: Sequence[str]) -> list[str]:
    indent = common_indent(window)
    return [line.removeprefix(indent).rstrip() for line in window]


def _only(starts: Sequence[int], hint: int | None, wanted: Sequence[str]) -> int:
    if hint is not None and hint in starts:
        return hint
    if len(starts) > 1:
        places = ", ".join(str(start + 1) for start in starts[:5])
        raise UnsureError(f"{_quoted(wanted)} stands at several places (lines {places})", lines=[s + 1 for s in starts])
    return starts[0]


def _nearly(lines: Sequence[str], wanted: Sequence[str], first: int) -> int:
    """The one place where almost every line is almost the same."""
    scores = sorted(((_score(lines, wanted, start), start) for start in _promising(lines, wanted, first)), reverse=True)
    if not scores or scores[0][0] < _SIMILAR:
        raise UnsureError(f"{_quoted(wanted)} is not there")
    best, start = scores[0]
    rivals = [other for score, other in scores[1:] if score > best - _MARGIN and abs(other - start) >= len(wanted)]
    return _only([start, *rivals], None, wanted)


def _promising(lines: Sequence[str], wanted: Sequence[str], first: int) -> list[int]:
    """Where the most lines are the same but for their indentation."""
    places: dict[str, list[int]] = {}
    for index in range(first, len(lines)):
        places.setdefault(lines[index].strip(), []).append(index)
    votes: Counter[int] = Counter()
    for offset, line in enumerate(wanted):
        if line.strip():
            votes.update(index - offset for index in places.get(line.strip(), ()))
    fits = range(first, len(lines) - len(wanted) + 1)
    return [start for start, _ in votes.most_common(_MOST_TRIED) if start in fits]


def _score(lines: Sequence[str], wanted: Sequence[str], start: int) -> float:
    """Mean similarity of the lines; 0 if any of them is another altogether."""
    scores = [similarity(line, lines[start + index]) for index, line in enumerate(wanted)]
    return 0.0 if min(scores) < _LINE_SIMILAR else sum(scores) / len(scores)


def _quoted(wanted: Sequence[str]) -> str:
    line = next((line.strip() for line in wanted if line.strip()), "")
    return f'"{line[:60]}"' + (f" and the {len(wanted) - 1} lines after it" if len(wanted) > 1 else "")


def same_indentation(line: str, place: Place) -> str:
    """A line as the model would have indented it, as the text does."""
    if not line.strip() or not line.startswith(place.quoted_indent):
        return line
    return place.indent + line.removeprefix(place.quoted_indent)
