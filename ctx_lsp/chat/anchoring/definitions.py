"""Functions, classes and the like of a text: where each begins and ends, by its name and its indentation.

Reads well-indented code of most languages without parsing any. Knows lines only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ctx_lsp.chat.anchoring.lines import indent_of

_MODIFIERS = (
    r"(?:(?:export|default|public|private|protected|internal|static|abstract|final|async|unsafe|override|open|data|"
    r"sealed|inline|local|virtual|declare|pub(?:\([^)]*\))?|extern(?:\s+\"C\")?|const(?=\s+fn))\s+)*"
)
_KINDS = (
    r"def|class|function\*?|fn|func|fun|struct|enum|trait|interface|module|type|namespace|record|object|protocol|"
    r"extension|union|macro_rules!|sub|defmodule"
)
_NAMED = re.compile(rf"{_MODIFIERS}(?P<kind>{_KINDS})\s+(?P<receiver>\([^)]*\)\s*)?(?P<name>[A-Za-z_$][\w$.:!?]*)")
_IMPL = re.compile(r"(?P<kind>impl)\b(?P<name>[^{]*)")
_BOUND = re.compile(
    r"(?:export\s+)?(?:const|let|var)\s+(?P<name>[\w$]+)[^=]*=\s*(?:async\s*)?(?:function\b|\(|[\w$]+\s*=>)"
)
_ABOVE = ("@", "#[", "[")
_COMMENTS = ("#", "//", "/*", "*", "--", "<!--")
_CLOSERS = (")", "]", "}", "{", "end")
_STRINGS = "|".join(
    (
        r'"""(?:\\.|[^\\])*?"""',
        r"'''(?:\\.|[^\\])*?'''",
        r"`(?:\\.|[^`\\])*`",
        r'(?<!")"(?!"")(?:\\.|[^"\\\n])*"',
        r"(?<!')'(?!'')(?:\\.|[^'\\\n])*'",
    )
)
_HASH_REMARKS = r"#[^\n]*"
_SLASH_REMARKS = r"//[^\n]*|/\*.*?\*/|(?<=\s)--\s[^\n]*"
_LONG_QUOTES = ('"""', "'''", "`")
_PAIRS = ("()", "[]", "{}")


@dataclass(frozen=True)
class Definition:
    """The lines from `start` to before `end`; `top` is where the comments that belong to it begin.

    Attributes:
        name: with its kind, e.g. ``def parse``.
        heading: the line that has the name.
    """

    name: str
    top: int
    start: int
    heading: int
    end: int
    indent: str
    inner: tuple[Definition, ...]


def definitions(lines: Sequence[str], first: int = 0, last: int | None = None) -> tuple[Definition, ...]:
    """Those between two lines that are within no other, in order, with those within them."""
    last = len(lines) if last is None else last
    found: list[Definition] = []
    at = first
    while at < last:
        name = _name(lines[at])
        if name is None:
            at += 1
            continue
        end = _end(lines, at, last)
        start = _above(lines, at, first, _ABOVE)
        top = _above(lines, start, first, (*_ABOVE, *_COMMENTS))
        inner = definitions(lines, at + 1, end)
        found.append(Definition(name, top, start, at, end, indent_of(lines[at]), inner))
        at = end
    return tuple(found)


def is_whole(lines: Sequence[str]) -> bool:
    """Whether what is opened is closed; if not, indentation has misled."""
    remarks = _HASH_REMARKS if any(line.rstrip().endswith(":") for line in lines) else _SLASH_REMARKS
    bare = re.sub(f"{_STRINGS}|{remarks}", "", "\n".join(lines), flags=re.DOTALL)
    balanced = all(bare.count(pair[0]) == bare.count(pair[1]) for pair in _PAIRS)
    return balanced and not any(quote in bare for quote in _LONG_QUOTES)


def _name(line: str) -> str | None:
    text = line.strip()
    if (named := _NAMED.match(text)) is not None:
        receiver = re.sub(r"\(\s*(?:\w+\s+)?|[)\s]", "", named["receiver"] or "")
        return f"{named['kind']} {receiver}{'.' if receiver else ''}{named['name'].rstrip(':')}"
    if (bound := _BOUND.match(text)) is not None:
        return f"const {bound['name']}"
    impl = _IMPL.match(text)
    return None if impl is None else f"impl {' '.join(impl['name'].split())}"


def _above(lines: Sequence[str], at: int, first: int, beginnings: tuple[str, ...]) -> int:
    """The first of the lines directly above that begin so, as far in as this one."""
    indent = indent_of(lines[at])
    while at > first and lines[at - 1].strip().startswith(beginnings) and indent_of(lines[at - 1]) == indent:
        at -= 1
    return at


def _end(lines: Sequence[str], heading: int, last: int) -> int:
    """Behind the last line that is further in than the heading, or closes what it opened."""
    indent, end = indent_of(lines[heading]), heading + 1
    for at in range(heading + 1, last):
        text, own = lines[at].strip(), indent_of(lines[at])
        if not text:
            continue
        deeper = own.startswith(indent) and own != indent
        if not deeper and not (own == indent and text.startswith(_CLOSERS)):
            break
        end = at + 1
        if not deeper and text.startswith(("}", "end")):
            break
    return end
