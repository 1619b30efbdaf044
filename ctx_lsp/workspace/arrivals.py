"""Files that have come lately, among which a file that is gone may be found again under another name.

Knows paths and texts; knows nothing of chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ctx_lsp.workspace.workspace_files import UnusableFileError, read_text

_MOST = 256


class Arrivals:
    """The latest files that were reported and are not followed."""

    def __init__(self) -> None:
        self._paths: dict[Path, None] = {}

    def add(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._paths.pop(path, None)
            self._paths[path] = None
        for path in list(self._paths)[:-_MOST]:
            del self._paths[path]

    def find(self, text: str) -> Path | None:
        """The latest that holds this text, which then is no arrival any more. Blocking."""
        size = len(text.encode(errors="surrogatepass"))
        found = next((path for path in reversed(list(self._paths)) if _holds(path, text, size)), None)
        if found is not None:
            self._paths.pop(found, None)
        return found


def _holds(path: Path, text: str, size: int) -> bool:
    try:
        return path.stat().st_size - size in (0, len("\ufeff".encode())) and read_text(path) == text
    except (OSError, UnusableFileError):
        return False
