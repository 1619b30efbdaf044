"""Unified diffs, as tools write them and as models do: with wrong line numbers, or none at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from ctx_lsp.chat.anchoring.hunks import Hunk
from ctx_lsp.chat.anchoring.lines import UnsureError

_HEADER = re.compile(r"@@(?: -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@| .*@@|$)")
_FILE_HEADER = re.compile(
    r"(?:diff --git |index [0-9a-f]|--- |\+\+\+ |(?:new|deleted) file mode |similarity index |rename )"
)
_LANGUAGES = frozenset({"diff", "patch", "udiff"})
_NO_NEWLINE = "\\ No newline at end of file"


def is_diff(lines: Sequence[str], language: str | None) -> bool:
    marked = sum(line.startswith(("+", "-")) for line in lines)
    return any(_HEADER.match(line) for line in lines) or ((language or "").lower() in _LANGUAGES and marked > 0)


def read_diff(lines: Sequence[str]) -> tuple[list[Hunk], bool | None]:
    """The hunks, and whether the text ends with a newline afterwards, if the diff says so. Raises UnsureError."""
    hunks: list[Hunk] = []
    body: list[str] = []
    hint: int | None = None
    due = Counter[str]()
    for index, line in enumerate(lines):
        header = _HEADER.match(line)
        if header is not None:
            hunks += _hunk(body, hint)
            body, hint, due = [], max(0, int(header[1]) - 1) if header[1] else None, _counts(header)
        elif due.total() > 0 or not _is_file_header(lines, index):
            body.append(line)
            due -= Counter("-+" if line[:1] not in ("-", "+", "\\") else line[:1])
    hunks += _hunk(body, hint)
    if not hunks:
        raise UnsureError("the diff changes nothing")
    return hunks, _ends_with_newline(lines)


def _counts(header: re.Match[str]) -> Counter[str]:
    """How many lines the hunk has of the old text and of the new one, if its header says so."""
    return Counter() if header[1] is None else Counter({"-": int(header[2] or 1), "+": int(header[3] or 1)})


def _is_file_header(lines: Sequence[str], index: int) -> bool:
    """Only where no hunk's lines are due: within one, what looks the same is a line of it."""
    if not lines[index].startswith(("--- ", "+++ ")):
        return _FILE_HEADER.match(lines[index]) is not None
    above, below = lines[max(0, index - 1) : index], lines[index + 1 : index + 2]
    neighbour = below if lines[index].startswith("--- ") else above
    return bool(neighbour) and neighbour[0].startswith(("--- ", "+++ "))


def _hunk(body: Sequence[str], hint: int | None) -> list[Hunk]:
    """Nothing of lines that change nothing. A line without a mark is one that stays: models drop the space."""
    lines = list(body)
    while lines and not lines[-1]:
        lines.pop()
    old = tuple(line[1:] if line[:1] in (" ", "-") else line for line in lines if line[:1] not in ("+", "\\"))
    new = tuple(line[1:] if line[:1] in (" ", "+") else line for line in lines if line[:1] not in ("-", "\\"))
    return [Hunk(old, new, hint)] if old != new or _NO_NEWLINE in lines else []


def _ends_with_newline(lines: Sequence[str]) -> bool | None:
    marked = [before[:1] for before, line in pairwise(lines) if line.startswith("\\ No newline")]
    return None if not marked else not ({" ", "+"} & set(marked))
