"""The questions that code actions ask in the user's place, and how much of the code they are about. Pure functions."""

from __future__ import annotations

from lsprotocol import types

from ctx_lsp.protocol import Position, Range, Selection

EXPLAIN = "Explain this code."

_LINES_AROUND = 10
_MOST_CHARACTERS = 60


def explain(problem: str | None) -> str:
    return EXPLAIN if problem is None else f"Explain this problem and how to fix it: {problem}"


def fix(problem: str) -> str:
    return f"Fix this problem: {problem}\nShow the corrected code."


def problem(diagnostic: types.Diagnostic) -> str:
    """A diagnostic in one line: what, where, and who says so."""
    reporter = " ".join(str(part) for part in (diagnostic.source, diagnostic.code) if part is not None)
    said = f" ({reporter})" if reporter else ""
    return f"line {diagnostic.range.start.line + 1}: {diagnostic.message.strip()}{said}"


def around(uri: str, range: types.Range) -> Selection:
    """A diagnostic's lines and those around them."""
    first = max(0, range.start.line - _LINES_AROUND)
    behind = range.end.line + _LINES_AROUND + 1
    return Selection(
        uri=uri, range=Range(start=Position(line=first, character=0), end=Position(line=behind, character=0))
    )


def shortened(message: str) -> str:
    """The first line of a message, cut to what a menu has room for."""
    line = message.strip().partition("\n")[0]
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1].rstrip() + "…"
