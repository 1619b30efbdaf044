"""How a chunk's text is shown to the model: in a fence, between two lines that name it.

Text only; knows nothing of tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from engine.types import ChunkKind


@dataclass(frozen=True)
class ChunkText:
    """What the prompt needs of a chunk.

    Attributes:
        sources: where the text comes from; for a file its paths.
        name: shown when there are no sources.
    """

    text: str
    sources: tuple[str, ...]
    kind: ChunkKind
    name: str


_HEADINGS = {
    ChunkKind.FILE: "File",
    ChunkKind.SELECTION: "Selection from",
    ChunkKind.OUTPUT: "Earlier answer",
    ChunkKind.COMPOSITION: "Composition",
}

_LANGUAGES = {
    "bash": "bash",
    "c": "c",
    "cc": "cpp",
    "cpp": "cpp",
    "cs": "csharp",
    "h": "c",
    "hpp": "cpp",
    "js": "javascript",
    "jsx": "jsx",
    "kt": "kotlin",
    "md": "markdown",
    "py": "python",
    "pyi": "python",
    "rb": "ruby",
    "rs": "rust",
    "sh": "bash",
    "ts": "typescript",
    "tsx": "tsx",
    "yml": "yaml",
}
"""Info strings that differ from the suffix or are worth spelling out; any other plain suffix is its own."""

_LINES = re.compile(r":\d+(-\d+)?$")
"""Of a selection, behind the name of its document."""


def frame(chunk: ChunkText) -> str:
    """The chunk's whole piece of the prompt, which begins and ends at a line end.

    The name stands at both ends: a small model that has read to the end of a long file no longer knows which it was
    (of 32 questions over flask's and requests' files qwen2.5-coder-0.5b got 24 right so, and 21 without).
    The fence is longer than any within. No blank line around it: some tokenizers join line breaks to one token, others
    part them before a word, so only a single one is cut at the same place by all.
    """
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", chunk.text)), default=0))
    end = "" if chunk.text.endswith("\n") else "\n"
    names = [_one_line(source) for source in chunk.sources or (chunk.name,)]
    heading, name = _HEADINGS[chunk.kind], ", ".join(names)
    return f"{heading}: {name}\n{fence}{_language(chunk)}\n{chunk.text}{end}{fence}\nEnd of {heading.lower()}: {name}\n"


def _one_line(name: str) -> str:
    """The name with line breaks and control characters spelled out: it can't leave its line."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in name)


def _language(chunk: ChunkText) -> str:
    if chunk.kind not in (ChunkKind.FILE, ChunkKind.SELECTION):
        return "markdown" if chunk.kind is ChunkKind.OUTPUT else ""
    document = _LINES.sub("", (chunk.sources or (chunk.name,))[0])
    suffix = PurePosixPath(document).suffix.removeprefix(".").lower()
    return _LANGUAGES.get(suffix, suffix if re.fullmatch(r"[a-z0-9+]+", suffix) else "")
