"""The fenced code blocks of an answer: where each stands, its language, and the file it is for, if the model said so.

Pure text work. Reads what models write, which is Markdown with liberties: fences at any depth, fences within fences of
the same length, and a last fence that is never closed. How a file is named is in `block_paths`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ctx_lsp.chat.block_paths import path_before, path_in_text, read_info

_CONTAINER = r"(?:[ \t]*>)*(?:[ \t]*(?:[-*+]|\d{1,9}[.)])(?=[ \t]))*[ \t]*"
_OPENING = re.compile(rf"(?P<lead>{_CONTAINER})(?P<fence>`{{3,}}(?=[^`]*$)|~{{3,}})(?P<info>.*)$")
_CLOSING = re.compile(r"(?P<lead>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*$")
_MARKDOWN = frozenset({"md", "markdown", "mdx"})
_MOST_INDENT = 3  # of a closing fence beyond that of its opening; code may hold fences that stand further in


@dataclass(frozen=True)
class Block:
    """A block whose opening fence begins at `start`, and whose closing one ends at `end`, its line end left out.

    Attributes:
        text: what is between the fences, without the indentation of the opening one.
    """

    language: str | None
    path: str | None
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class _Line:
    """A line without its end, and where it begins."""

    text: str
    start: int


@dataclass(frozen=True)
class _Fence:
    """An opening fence. `depth` is how many block quotes it is in."""

    fence: str
    info: str
    lead: str
    depth: int

    def content(self, line: str) -> str | None:
        """The line as the block has it; None where the block quote it is in has ended."""
        quoted = re.match(rf"(?:[ \t]*>){{{self.depth}}}[ ]?", line) if self.depth else re.match("", line)
        return None if quoted is None else line[quoted.end() :]

    def unindented(self, content: str) -> str:
        indent = len(content) - len(content.lstrip(" \t"))
        return content[min(len(self.lead), indent) :]

    def closes(self, content: str) -> bool:
        closing = _CLOSING.match(content)
        return (
            closing is not None
            and closing["fence"].startswith(self.fence)
            and len(closing["lead"]) <= len(self.lead) + _MOST_INDENT
        )


def find_blocks(answer: str) -> list[Block]:
    """All blocks that are not within another, in order."""
    lines = _lines(answer)
    blocks: list[Block] = []
    index = 0
    while index < len(lines):
        fence = _opening(lines[index].text)
        if fence is None:
            index += 1
            continue
        inside, end = _inside(lines, index + 1, fence)
        blocks.append(_block(answer, lines, index, end, fence, inside))
        index = end
    return blocks


def _lines(text: str) -> list[_Line]:
    lines, start = [], 0
    for line in re.split(r"(?<=\n)", text):
        lines.append(_Line(line.rstrip("\r\n"), start))
        start += len(line)
    return lines


def _opening(line: str) -> _Fence | None:
    match = _OPENING.match(line)
    if match is None:
        return None
    quotes = match["lead"].rpartition(">")
    lead = quotes[2].removeprefix(" ") if quotes[1] else quotes[2]
    return _Fence(match["fence"], match["info"].strip(), lead, match["lead"].count(">"))


def _inside(lines: Sequence[_Line], first: int, fence: _Fence) -> tuple[list[str], int]:
    """The block's lines, and the index of the line behind it."""
    language, _ = read_info(fence.info)
    if language in _MARKDOWN and (found := _until_closed(lines, first, fence, nests=True)) is not None:
        return found
    return _until_closed(lines, first, fence, nests=False) or _until_quote_ends(lines, first, fence)


def _until_closed(lines: Sequence[_Line], first: int, fence: _Fence, *, nests: bool) -> tuple[list[str], int] | None:
    """None if it isn't closed. With `nests`, a fence with an info string opens a block within that has its own end."""
    inside: list[str] = []
    nested: list[_Fence] = []
    for index in range(first, len(lines)):
        content = fence.content(lines[index].text)
        if content is None:
            return None
        if (nested[-1] if nested else fence).closes(content):
            if not nested:
                return inside, index + 1
            nested.pop()
        elif nests and (inner := _opening(content)) is not None and inner.info:
            nested.append(inner)
        inside.append(fence.unindented(content))
    return None


def _until_quote_ends(lines: Sequence[_Line], first: int, fence: _Fence) -> tuple[list[str], int]:
    """A block that is never closed reaches to the end of what it is in."""
    inside: list[str] = []
    for index in range(first, len(lines)):
        content = fence.content(lines[index].text)
        if content is None:
            return inside, index
        inside.append(fence.unindented(content))
    return (inside[:-1] if inside and not inside[-1] else inside), len(lines)


def _block(answer: str, lines: Sequence[_Line], opening: int, end: int, fence: _Fence, inside: Sequence[str]) -> Block:
    language, path = read_info(fence.info)
    text = "".join(f"{line}\n" for line in inside)
    path = path or path_in_text(text) or path_before([line.text for line in lines[max(0, opening - 2) : opening]])
    last = lines[end - 1]
    start = lines[opening].start + lines[opening].text.index(fence.fence)
    return Block(language, path, text, start, last.start + len(last.text))
