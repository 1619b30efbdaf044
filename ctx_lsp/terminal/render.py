"""How an answer looks in a terminal: streamed Markdown as styled text, and the line of figures below it.

Pure text in, text with ANSI escapes out, piece by piece; nothing here writes to a terminal. Nothing that was written is
ever moved or erased, so nothing can flicker: a finished line of code is only written over itself, in colors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.syntax import Syntax

from ctx_lsp.protocol import ChatResult, LoadResult, Skipped, Status

RESET, BOLD, DIM, CYAN, GREEN, YELLOW = (f"\x1b[{n}m" for n in (0, 1, 2, 36, 32, 33))

# Escape sequences in an answer must not reach the terminal.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

# A span of emphasis or code is held back until it closes, but not longer than this many characters.
LONGEST_HELD_SPAN = 80

_BAR = "│ "

_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(\w*)[^`]*$")
_MAYBE_BLOCK = re.compile(r"\s*(`{0,2}|~{0,2}|#{1,6}|[-*+]|>|\d{1,3}[.)]?)$")
_BLOCK = re.compile(r"(\s*)(#{1,6} |[-*+] |> )")
_NUMBER = re.compile(r"\s*\d{1,3}[.)] ")
_SPAN = re.compile(r"`([^`]{1,78})`|\*\*(?=\S)([^*]{0,75}[^*\s])\*\*")  # the longest fill LONGEST_HELD_SPAN
_MAYBE_SPAN = re.compile(r"`[^`]*$|\*\*?$|\*\*\S[^*]*\*?$")
_WIDE = re.compile("[\u2e80-\ufaff\uff00-\uffef]")  # scripts without spaces: a line may break at every character
_PLAIN = re.compile("[^\\s`*\u2e80-\ufaff\uff00-\uffef]+")


def is_styled(stream: TextIO) -> bool:
    """Whether escapes may be written there (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str) -> str:
    return f"{style}{text}{RESET}" if text and style else text


class MarkdownStream:
    """Renders Markdown that arrives in pieces of any size: `feed` each of them, then `finish`.

    Prose is wrapped at words, code is left as it is and colored line by line. `width` is in terminal cells.
    """

    def __init__(self, width: int) -> None:
        self._width = max(width, 20)
        self._line = ""  # what has come of the current line and is not decided yet
        self._prose: _Prose | None = None  # the current line, once it is known to be prose
        self._code: _Code | None = None  # the current block of code
        self._begun = False

    def feed(self, text: str) -> str:
        text = text.translate(_CONTROLS)
        if not self._begun:
            text = text.lstrip("\n")
            self._begun = bool(text)
        out = []
        *lines, rest = text.split("\n")
        for line in lines:
            out.append(self._advance(line))
            out.append(self._end_line())
        out.append(self._advance(rest))
        return "".join(out)

    def finish(self) -> str:
        """What was held back, and a line break if the last line lacks one."""
        pending = bool(self._line) or self._prose is not None or (self._code is not None and self._code.begun)
        return self._end_line() if pending else ""

    def _advance(self, text: str) -> str:
        if not text:
            return ""
        if self._code:
            return self._code.feed(text)
        if self._prose:
            return self._prose.feed(text)
        self._line += text
        if _MAYBE_BLOCK.match(self._line) or _FENCE.match(self._line) or not self._line.strip():
            return ""  # a block mark may be under way: the next characters tell
        return self._begin_prose()

    def _begin_prose(self) -> str:
        line, self._line = self._line, ""
        mark, text, indent, style = _block(line)
        self._prose = _Prose(self._width, indent, style)
        return mark + self._prose.feed(text)

    def _end_line(self) -> str:
        if self._code:
            out, ended = self._code.end_line()
            self._code = None if ended else self._code
            return out + "\n"
        if fence := _FENCE.match(self._line):
            line, self._line = self._line, ""
            self._code = _Code(self._width, fence[1], fence[2])
            return styled(line, DIM) + "\n"
        out = self._begin_prose() if self._line.strip() else ""
        out += self._prose.finish() if self._prose else ""
        self._prose, self._line = None, ""
        return out + "\n"


class ThoughtStream:
    """Renders what a model thinks, apart from its answer, behind a bar: dim and wrapped, or plain without `style`."""

    def __init__(self, width: int, style: str = DIM) -> None:
        self._width = max(width, 20)
        self._bar = styled(_BAR, style)
        self._style = style
        self._prose: _Prose | None = None
        self._in_line = False
        self._begun = False

    def feed(self, text: str) -> str:
        first, *lines = text.translate(_CONTROLS).split("\n")
        return self._advance(first) + "".join(self._end_line() + self._advance(line) for line in lines)

    def finish(self) -> str:
        """The end of it and an empty line; nothing if nothing came since the last time."""
        out = self._end_line() + "\n" if self._begun else ""
        self._begun = False
        return out

    def _advance(self, text: str) -> str:
        if not text:
            return ""
        begin = "" if self._in_line else self._bar
        self._begun = self._in_line = True
        if not self._style:
            return begin + text
        self._prose = self._prose or _Prose(self._width, len(_BAR), self._style, self._bar)
        return begin + self._prose.feed(text)

    def _end_line(self) -> str:
        out = "" if self._in_line else self._bar
        out += self._prose.finish() if self._prose else ""
        self._prose, self._in_line = None, False
        return out + "\n"


def _block(line: str) -> tuple[str, str, int, str]:
    """Splits the beginning of a line into its mark as it is shown, its text, the indent of wrapped lines, its style."""
    if not (match := _BLOCK.match(line)):
        start = _NUMBER.match(line) or re.match(r"\s*", line)
        assert start is not None
        return start[0], line[start.end() :], start.end(), ""
    space, mark = match.groups()
    text = line[match.end() :]
    if mark.startswith("#"):
        return space, text, 0, BOLD
    if mark == "> ":
        return space + styled(_BAR, DIM), text, len(space) + 2, DIM
    return space + styled("• ", CYAN), text, len(space) + 2, ""


class _Prose:
    """One line of prose: spans styled, words wrapped. A word is written when it is whole."""

    def __init__(self, width: int, indent: int, style: str, margin: str | None = None) -> None:
        """`margin` is what wrapped lines begin with, `indent` cells wide; spaces unless it is given."""
        self._width, self._indent, self._style = width, min(indent, width // 2), style
        self._margin = " " * self._indent if margin is None else margin
        self._column = 0  # cells written, the mark not counted
        self._held = ""  # characters not understood yet
        self._word: list[tuple[str, str]] = []  # pieces of the word under way, each with its style
        self._spaces = ""
        self._out: list[str] = []

    def feed(self, text: str) -> str:
        self._held += text
        self._scan(final=False)
        return self._take()

    def finish(self) -> str:
        self._scan(final=True)
        self._end_word()
        return self._take()

    def _take(self) -> str:
        out, self._out = "".join(self._out), []
        return out

    def _scan(self, final: bool) -> None:
        while self._held:
            if (match := _SPAN.match(self._held)) is not None:
                self._span(match)
            elif (match := _PLAIN.match(self._held)) is not None:
                if match.end() == len(self._held) and not final:
                    return
                self._word.append((match[0], self._style))
            elif (match := _WIDE.match(self._held)) is not None:
                self._word.append((match[0], self._style))
                self._end_word()
            elif (match := re.match(r"\s+", self._held)) is not None:
                self._end_word()
                self._spaces += match[0]
            elif not final and len(self._held) < LONGEST_HELD_SPAN and _MAYBE_SPAN.match(self._held):
                return
            else:
                match = re.match(r"`+|\*+", self._held)
                assert match is not None
                self._word.append((match[0], self._style))
            self._held = self._held[match.end() :]

    def _span(self, match: re.Match[str]) -> None:
        style = self._style + (CYAN if match[1] else BOLD)
        first, *words = (match[1] or match[2]).split(" ")
        self._word.append((first, style))
        for word in words:
            self._end_word()
            self._spaces += " "
            self._word.append((word, style))

    def _end_word(self) -> None:
        size = sum(cell_len(text) for text, _ in self._word)
        if not size:
            return
        if self._column and self._indent + self._column + len(self._spaces) + size > self._width:
            self._out.append("\n" + self._margin)
            self._column, self._spaces = 0, ""
        self._out.append(self._spaces)
        self._out += [styled(text, style) for text, style in self._word]
        self._column += len(self._spaces) + size
        self._spaces, self._word = "", []


class _Code:
    """A block of code: characters are written as they come, a whole line is written over itself with its colors."""

    def __init__(self, width: int, fence: str, language: str) -> None:
        self._width, self._fence = width, fence
        self._highlight = _Highlighter(language)
        self._line = ""
        self._written = 0

    @property
    def begun(self) -> bool:
        return bool(self._line)

    def feed(self, text: str) -> str:
        self._line += text
        if not self._line.strip().strip(self._fence[0]):
            return ""  # perhaps the closing fence
        out = self._line[self._written :]
        self._written = len(self._line)
        return out

    def end_line(self) -> tuple[str, bool]:
        """The rest of the line, and whether it was the closing fence."""
        line, written, self._line, self._written = self._line, self._written, "", 0
        mark = line.strip()
        if mark.startswith(self._fence) and not mark.strip(self._fence[0]):
            return styled(line, DIM), True
        colored = self._highlight.line(line)
        wrapped = cell_len(line.expandtabs()) >= self._width  # writing over it would begin in the wrong row
        if written and (wrapped or colored == line):
            return line[written:], False
        return ("\r" if written else "") + colored, False


class _Highlighter:
    """Colors code line by line, each with the lines before it in view (strings and comments span lines)."""

    def __init__(self, language: str) -> None:
        self._syntax = Syntax("", language or "default", theme="ansi_dark", background_color="default")
        self._known = bool(language) and self._syntax.lexer is not None
        self._console = Console(color_system="standard", force_terminal=True, width=10_000)
        self._lines: list[str] = []

    def line(self, text: str) -> str:
        self._lines.append(text)
        if not text.strip() or not self._known:
            return text
        lines = self._syntax.highlight("\n".join(self._lines)).split("\n", allow_blank=True)
        colored = lines[len(self._lines) - 1]
        if colored.plain != text:
            return text  # a lexer that changes text, e.g. strips it, can't be trusted with this line
        segments = colored.render(self._console)
        return "".join(
            style.render(part, color_system=ColorSystem.STANDARD) if style else part for part, style, _ in segments
        )


def figures(result: ChatResult) -> str:
    """The line below an answer, plain: what was reused, what it cost, how fast it was, how faithful its context was."""
    usage, timing = result.usage, result.timing
    thought = f" ({usage.reasoning_tokens:,} thinking)" if usage.reasoning_tokens else ""
    parts = [
        f"{usage.reused_tokens:,} tokens reused",
        f"{usage.prefilled_tokens:,} prefilled",
        f"{usage.completion_tokens:,} generated{thought}",
        f"first token {timing.time_to_first_token:.2f} s",
        f"{timing.tokens_per_second:.1f} tok/s",
        result.fidelity,
    ]
    if result.stop_reason == "length":
        parts.append("cut by length")
    return " · ".join(parts)


def load_summary(loaded: LoadResult, status: Status) -> str:
    """What is in the context and what reads it, in one line."""
    model = " on ".join(part for part in (status.model, status.device) if part)
    tokens = f"{status.active_tokens:,} of {status.limit:,} tokens" if status.limit else ""
    return " · ".join(part for part in (model, _count(len(loaded.loaded), "file"), tokens) if part)


def skipped_lines(skipped: Sequence[Skipped], most: int = 5) -> list[str]:
    """Which files were not loaded and why; the rest of a long list as a number."""
    lines = [f"not loaded: {item.path} ({item.reason})" for item in skipped[:most]]
    return lines + ([f"not loaded: {len(skipped) - most} more"] if len(skipped) > most else [])


def short_path(path: Path) -> str:
    """With ~ for the home folder."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
