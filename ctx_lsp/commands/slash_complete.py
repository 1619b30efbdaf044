"""What could follow the slash command that is being typed. Knows the table of commands, paths and chunks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from ctx_lsp.commands import slash
from ctx_lsp.protocol import ChunkInfo, ClearScope, SlashCompleteResult, SlashItem


@dataclass(frozen=True)
class Surroundings:
    """What is there to be named.

    Attributes:
        chunks: of the context, as last seen.
        paths: completes the beginning of a path.
        saved: names of the saved contexts.
        units: length of a text as the client counts it.
    """

    chunks: Sequence[ChunkInfo]
    paths: Callable[[str], Sequence[str]]
    saved: Callable[[], Sequence[str]]
    units: Callable[[str], int]


def complete(line: str, surroundings: Surroundings) -> SlashCompleteResult:
    """Completions for a line up to the cursor; none for a line that is no slash command."""
    if not line.startswith("/"):
        return SlashCompleteResult(items=(), start=surroundings.units(line))
    name, space, _ = line.partition(" ")
    if not space:
        items = [_item(c.name, c.name, c.summary) for c in slash.COMMANDS.values() if c.name.startswith(name)]
        return SlashCompleteResult(items=tuple(items), start=0)
    start = _last_argument(line)
    items = _arguments(name, _unquoted(line[start:]), surroundings)
    return SlashCompleteResult(items=tuple(items), start=surroundings.units(line[:start]))


def _arguments(name: str, typed: str, surroundings: Surroundings) -> list[SlashItem]:
    command = slash.COMMANDS.get(name)
    kind = command.completes if command is not None else ""
    if kind == "paths":
        return [_item(path, _quoted(path), "") for path in surroundings.paths(typed)]
    if kind == "refs":
        refs = slash.refs_of(surroundings.chunks)
        return [_item(ref, _quoted(ref), detail) for ref, detail in refs.items() if _matches(ref, typed)]
    if kind == "saved":
        return [_item(name, _quoted(name), "") for name in surroundings.saved() if name.startswith(typed)]
    words = {"scopes": list(get_args(ClearScope)), "commands": list(slash.COMMANDS)}.get(kind, [])
    return [_item(word, word, "") for word in words if _matches(word, typed)]


def _matches(word: str, typed: str) -> bool:
    """By its beginning, or by that of a file's name within it."""
    return word.startswith(typed) or word.rpartition("/")[2].startswith(typed)


def _last_argument(line: str) -> int:
    """Where the argument under the cursor begins: behind the last space that no quote or backslash protects."""
    start, quote, escaped = len(line), "", False
    for index, char in enumerate(line):
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == " ":
            start = index + 1
    return min(start, len(line))


def _unquoted(typed: str) -> str:
    """The argument's value so far; a quote that is still open is closed first."""
    for closing in ("", "'", '"'):
        try:
            return "".join(shlex.split(typed + closing)[:1])
        except ValueError:
            continue
    return typed


def _quoted(text: str) -> str:
    """Quoted where it has to be; `#` and globs need no quotes here."""
    return f'"{text}"' if any(char in text for char in " \t'") and '"' not in text else _escaped(text)


def _escaped(text: str) -> str:
    return "".join("\\" + char if char in " \t'\"\\" else char for char in text)


def _item(label: str, insert_text: str, detail: str) -> SlashItem:
    return SlashItem(label=label, insert_text=insert_text, detail=detail)
