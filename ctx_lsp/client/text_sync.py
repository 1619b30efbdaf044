"""Applies a client's edits to a text exactly as the LSP specification says.

Pure functions. pygls' own documents are not used: they count form feeds, U+2028 and others as line ends, which LSP
doesn't, so that positions behind them go astray.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lsprotocol import types

_LINE_END = re.compile(r"\r\n|\n|\r")


def apply_changes(text: str, changes: Iterable[types.TextDocumentContentChangeEvent], encoding: str) -> str:
    """The text after the changes, each of which refers to the text the one before left."""
    for change in changes:
        if isinstance(change, types.TextDocumentContentChangePartial):
            start = offset_at(text, change.range.start, encoding)
            end = max(start, offset_at(text, change.range.end, encoding))
            text = text[:start] + change.text + text[end:]
        else:
            text = change.text
    return text


def offset_at(text: str, position: types.Position, encoding: str) -> int:
    """Index into `text`. A position behind the end of its line or of the text means that end."""
    start, end = _line_span(text, position.line)
    return start + _index_in_line(text[start:end], position.character, encoding)


def position_at(text: str, offset: int, encoding: str) -> types.Position:
    """The position of an index into `text`, which is not within a line end."""
    line, start = 0, 0
    for match in _LINE_END.finditer(text, 0, offset):
        line, start = line + 1, match.end()
    return types.Position(line, units(text[start:offset], encoding))


def units(text: str, encoding: str) -> int:
    """Length of a text in the code units of a position encoding."""
    if encoding == types.PositionEncodingKind.Utf32 or text.isascii():
        return len(text)
    return sum(_width(char, encoding) for char in text)


def line_count(text: str) -> int:
    """Lines that a text begins; a line end that nothing follows begins none."""
    ends = _LINE_END.findall(text)
    return len(ends) + (not text.endswith(("\n", "\r")))


def _line_span(text: str, line: int) -> tuple[int, int]:
    """Start and end of a line without its line end."""
    start = 0
    for match in _LINE_END.finditer(text):
        if line == 0:
            return start, match.start()
        line -= 1
        start = match.end()
    return (start, len(text)) if line == 0 else (len(text), len(text))


def _index_in_line(line: str, character: int, encoding: str) -> int:
    """A position inside a character that takes several units means the place before that character."""
    if encoding == types.PositionEncodingKind.Utf32 or line.isascii():
        return min(character, len(line))
    used = 0
    for index, char in enumerate(line):
        used += _width(char, encoding)
        if used > character:
            return index
    return len(line)


def _width(char: str, encoding: str) -> int:
    if encoding == types.PositionEncodingKind.Utf8:
        return len(char.encode("utf-8", "surrogatepass"))
    return 2 if ord(char) > 0xFFFF else 1
