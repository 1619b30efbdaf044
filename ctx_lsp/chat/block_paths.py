"""The file that a code block is for, wherever a model may have named it: info string, first line, or the line before.

Pure text work. A name is taken for a path only where it looks like nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_BARE_NAMES = "Makefile|Dockerfile|Justfile|Rakefile|Gemfile|Procfile|CMakeLists\\.txt"
_PATH = re.compile(rf"(?:[\w@.~+-]+[/\\])*(?:[\w@+-]?[\w@.+-]*\.[A-Za-z][A-Za-z0-9_]{{0,9}}|\.[a-z]\w+|{_BARE_NAMES})")
_FOLDERED = re.compile(r"(?:[A-Za-z]:)?(?:[\w@.~+-]*[/\\])+[\w@.+-]+")
_LANGUAGES_WITH_DOTS = frozenset({"asp.net", "vb.net"})

_ATTRIBUTE = re.compile(r"\b(?:title|path|file|filename|filepath)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s}]+))")
_DOTTED_LANGUAGE = re.compile(r"\.\w+")
_LINES_AND_PATH = re.compile(r"\d+:\d+:(.+)")
_COMMENT = re.compile(r"\s*(?:#+|//+|--+|;+|%+|/\*+|<!--|\"|rem\b)\s*(.*?)\s*(?:\*+/|-->)?\s*$", re.IGNORECASE)
_LABEL = re.compile(r"(?:file(?:name|path)?|path)\s*:\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\d+[.)]\s+")
_NEW_FILE = re.compile(r"^\+\+\+ (?:b/)?([^\t\n]+)", re.MULTILINE)
_OLD_FILE = re.compile(r"^--- (?:a/)?([^\t\n]+)", re.MULTILINE)
_SEARCH = re.compile(r"<{5,9} ?SEARCH")
_BACKTICKED = re.compile(r"`([^`]+)`")
_DECORATION = " \t*_`#>:\"'()[]"


def read_info(info: str) -> tuple[str | None, str | None]:
    """Language and path of an info string: `py`, `py src/a.py`, `py:src/a.py`, `src/a.py`, `py title="src/a.py"`."""
    attribute = _ATTRIBUTE.search(info)
    named = next((value for value in attribute.groups() if value), None) if attribute is not None else None
    first, *rest = _ATTRIBUTE.sub(" ", info).strip("{} \t").split() or [""]
    if (numbered := _LINES_AND_PATH.fullmatch(first)) is not None:
        return None, named or numbered[1]
    if looks_like_path(first) and not _DOTTED_LANGUAGE.fullmatch(first):
        return None, named or first
    language, _, behind = first.partition(":")
    path = behind if looks_like_path(behind) else next(filter(looks_like_path, rest), None)
    return language.lstrip(".").partition(",")[0].rstrip("}") or None, named or path


def path_in_text(text: str) -> str | None:
    """What a diff says, or the comment in the first line, or the line before a search block."""
    first, _, rest = text.partition("\n")
    if text.startswith(("--- ", "diff --git ")):
        names = [match[1].strip() for pattern in (_NEW_FILE, _OLD_FILE) if (match := pattern.search(text)) is not None]
        return next((name for name in names if name != "/dev/null"), None)
    if _SEARCH.match(rest) and looks_like_path(first.strip(_DECORATION)):
        return first.strip(_DECORATION)
    return path_in_comment(first)


def path_in_comment(line: str) -> str | None:
    """The path that is all that a comment says."""
    comment = _COMMENT.match(line)
    said = _LABEL.sub("", comment[1], count=1).strip("`") if comment is not None else ""
    return said if looks_like_path(said) else None


def path_before(lines: Sequence[str]) -> str | None:
    """What the last line that isn't blank says, if it says little else: `**src/a.py**`, `File: src/a.py`."""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    bare = _NUMBER.sub("", line.lstrip("-+" + _DECORATION)).strip(_DECORATION)
    bare = _LABEL.sub("", bare, count=1).strip(_DECORATION)
    if looks_like_path(bare):
        return bare
    quoted = [name for name in _BACKTICKED.findall(line) if looks_like_path(name)]
    return quoted[0] if line.rstrip("*_ ").endswith(":") and len(quoted) == 1 else None


def looks_like_path(text: str) -> bool:
    if text.lower() in _LANGUAGES_WITH_DOTS or "://" in text:
        return False
    return _PATH.fullmatch(text) is not None or (_FOLDERED.fullmatch(text) is not None and not text.startswith("//"))
