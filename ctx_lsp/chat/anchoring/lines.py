"""A text as lines, changes to them, and what these mean for the text itself.

Lines end as LSP says (LF, CRLF or CR) and are kept without their ends. Knows nothing of where changes come from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import pairwise

from engine.errors import EngineError

_LINE = re.compile(r"([^\r\n]*)(\r\n|\n|\r|$)")


class UnsureError(EngineError):
    """Where the block belongs can't be told for sure; the message says why, and nothing is changed."""

    code = "apply_unsure"
    status = 409


@dataclass(frozen=True)
class Edit:
    """The text from offset `start` to before `end` becomes `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Replacement:
    """The lines from `start` to before `end` become `lines`."""

    start: int
    end: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class SourceText:
    """A text and its lines. The end of the last line, where there is one, begins no further line."""

    text: str

    @cached_property
    def lines(self) -> tuple[str, ...]:
        return tuple(line for line, _ in self._parts)

    @cached_property
    def ends_with_newline(self) -> bool:
        """True of an empty text: what is put there is to end well."""
        return not self._parts or bool(self._parts[-1][1])

    @cached_property
    def newline(self) -> str:
        """What most lines end with."""
        ends = Counter(end for _, end in self._parts if end)
        return ends.most_common(1)[0][0] if ends else "\n"

    @cached_property
    def _parts(self) -> list[tuple[str, str]]:
        parts = [(match[1], match[2]) for match in _LINE.finditer(self.text)]
        while parts and parts[-1] == ("", ""):
            parts.pop()
        return parts

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for line, end in self._parts:
            starts.append(starts[-1] + len(line) + len(end))
        return starts

    def edits(self, replacements: Sequence[Replacement], ends_with_newline: bool | None = None) -> tuple[Edit, ...]:
        """What becomes of the text. Its last line ends as before, unless told. Raises UnsureError."""
        final = self.ends_with_newline if ends_with_newline is None else ends_with_newline
        ordered = sorted(replacements, key=lambda replacement: (replacement.start, replacement.end))
        for before, after in pairwise(ordered):
            if after.start < before.end or (before.start == before.end == after.start):
                raise UnsureError("two of the changes are to the same lines")
        edits = [self._edit(replacement, final) for replacement in ordered]
        touches_end = bool(ordered) and ordered[-1].end == len(self.lines)
        if final != self.ends_with_newline and self.lines and not touches_end:
            edits.append(Edit(len(self.text) - len(self._parts[-1][1]), len(self.text), self.newline if final else ""))
        return tuple(edits)

    def _edit(self, replacement: Replacement, final: bool) -> Edit:
        start, end = self._starts[replacement.start], self._starts[replacement.end]
        text = "".join(line + self.newline for line in replacement.lines)
        if replacement.end < len(self.lines):
            return Edit(start, end, text)
        if not final:
            text = text.removesuffix(self.newline)
        if replacement.start == len(self.lines) and replacement.lines and not self.ends_with_newline:
            text = self.newline + text
        if not replacement.lines and replacement.start > 0 and not final:
            start -= len(self._parts[replacement.start - 1][1])
        return Edit(start, end, text)


def changes(old: Sequence[str], new: Sequence[str], start: int, kept: Sequence[str] | None = None) -> list[Replacement]:
    """What turns the lines `old`, which begin at `start`, into `new`: line by line, what is equal untouched.

    `kept`: what stands in the text in place of `old`, as many lines; where `old` and `new` are equal it stays.
    """
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [
        Replacement(start + a, start + b, tuple(new[c:d]))
        for tag, a, b, c, d in matcher.get_opcodes()
        if tag != "equal" and (kept is None or tuple(kept[a:b]) != tuple(new[c:d]))
    ]


def indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def common_indent(lines: Sequence[str]) -> str:
    """What all lines that aren't blank begin with."""
    indents = [indent_of(line) for line in lines if line.strip()]
    common = min(indents, key=len, default="")
    while not all(indent.startswith(common) for indent in indents):
        common = common[:-1]
    return common


def reindented(lines: Sequence[str], old: str, new: str) -> list[str]:
    """Lines that begin with `old` begin with `new` instead."""
    return [new + line.removeprefix(old) if line.strip() else line for line in lines]


def similarity(a: str, b: str) -> float:
    """Of two lines, whatever their indentation: 0 to 1."""
    return SequenceMatcher(None, a.strip(), b.strip(), autojunk=False).ratio()


def likeness(a: Sequence[str], b: Sequence[str]) -> float:
    """Of two runs of lines, by the lines that they share: 0 to 1."""
    a, b = ([line.strip() for line in lines if line.strip()] for lines in (a, b))
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def without_blank_edges(lines: Sequence[str]) -> list[str]:
    first = next((index for index, line in enumerate(lines) if line.strip()), len(lines))
    last = next((index for index in reversed(range(len(lines))) if lines[index].strip()), -1)
    return list(lines[first : last + 1])
