"""What the code lens above a document says of its chunk, and what a click on it does. Pure functions.

Knows chunks; knows nothing of documents or of how a chunk came about.
"""

from __future__ import annotations

from pathlib import Path

from lsprotocol import types

from ctx_lsp import protocol
from ctx_lsp.commands import markdown
from ctx_lsp.protocol import ChunkInfo

_TOP = types.Range(types.Position(0, 0), types.Position(0, 0))


def of_chunk(chunk: ChunkInfo, source: str, reason: str | None) -> types.CodeLens:
    """Activates or deactivates it. `reason`: why it was left out of the prompt, if it was."""
    return _lens(title(chunk, reason), toggle_command(chunk), {"refs": [reference(chunk, source)]})


def of_absent(path: Path, reason: str | None) -> types.CodeLens:
    """Loads a file that is no chunk, for this reason where there is one."""
    return _lens(f"○ {reason or 'not in the context'}", protocol.LOAD_COMMAND, {"paths": [str(path)]})


def title(chunk: ChunkInfo, reason: str | None) -> str:
    dot = "●" if chunk.active else "○"
    parts = [f"{chunk.tokens:,} tokens", reason or markdown.warmth(chunk)]
    return f"{dot} " + " · ".join([*parts, "pinned"] if chunk.pinned else parts)


def toggle_command(chunk: ChunkInfo) -> str:
    return protocol.DEACTIVATE_COMMAND if chunk.active else protocol.ACTIVATE_COMMAND


def reference(chunk: ChunkInfo, source: str) -> str:
    """What names the chunk for a command, if it can be its source, which stays the same when the text changes."""
    return chunk.hash if source.startswith("#") else source


def _lens(title: str, command: str, argument: dict[str, object]) -> types.CodeLens:
    return types.CodeLens(_TOP, types.Command(title, command, arguments=[argument]))
