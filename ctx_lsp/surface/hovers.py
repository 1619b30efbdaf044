"""A chunk's card: all that is known of it, in the markup that the client takes. Pure functions."""

from __future__ import annotations

from lsprotocol import types

from ctx_lsp.commands import markdown
from ctx_lsp.protocol import ChunkInfo

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def card(chunk: ChunkInfo, source: str, age: float, kind: types.MarkupKind) -> types.Hover:
    """`age`: seconds since its text came."""
    bold, code = ("**", "`") if kind is types.MarkupKind.Markdown else ("", "")
    lines = [
        f"{bold}{source}{bold} is {'active' if chunk.active else 'not active'} in the context",
        "",
        f"- {chunk.tokens:,} tokens, {chunk.warm_tokens:,} of them warm: {markdown.warmth(chunk)}",
        f"- this text has been there for {duration(age)}",
        f"- hash {code}{chunk.hash}{code}",
    ]
    if chunk.tags:
        lines.append("- tags " + " ".join(f"{code}#{tag}{code}" for tag in chunk.tags))
    if chunk.pinned:
        lines.append("- pinned: it keeps its place when it is edited")
    others = [name for name in chunk.sources if name != source]
    if others:
        lines.append("- the same text as " + ", ".join(f"{code}{name}{code}" for name in others))
    return types.Hover(types.MarkupContent(kind, "\n".join(lines)))


def duration(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
    return "less than a minute"
