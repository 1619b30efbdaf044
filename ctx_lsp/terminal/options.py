"""What `ctx-lsp chat` was asked to do, as one value; knows neither argparse nor the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctx_lsp.protocol import Sampling
from ctx_lsp.terminal.session import Settings


@dataclass(frozen=True)
class ChatOptions:
    """One run of the terminal chat.

    Attributes:
        files: absolute paths of files and folders to load.
        discover: load what the server finds in the workspace.
        question: asked once, then the program ends; None starts a conversation.
        as_json: print one JSON object instead of the answer's text.
    """

    settings: Settings
    files: tuple[str, ...] = ()
    discover: bool = False
    question: str | None = None
    as_json: bool = False
    sampling: Sampling | None = None


def existing_paths(names: Sequence[str]) -> tuple[str, ...]:
    """Absolute paths of these files and folders. Raises FileNotFoundError naming the first one that isn't there."""
    paths = [Path(name).expanduser().absolute() for name in names]
    for name, path in zip(names, paths, strict=True):
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {name}")
    return tuple(str(path) for path in paths)
