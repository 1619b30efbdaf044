"""What a document or file is called on the engine: relative to its workspace folder, else absolute, else its URI.

Names only; knows nothing of texts or chunks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pygls.uris import to_fs_path, uri_scheme

_SCHEMES = frozenset({"file", "untitled"})


def is_chattable(uri: str) -> bool:
    """Whether a document can be a chunk: files and unsaved ones can, views that editors generate can't."""
    return uri_scheme(uri) in _SCHEMES


def path_of(uri: str) -> Path | None:
    """The file behind a URI, normalized; None if the URI names no file."""
    if uri_scheme(uri) != "file" or not (path := to_fs_path(uri)):
        return None
    return normalize(Path(path))


def normalize(path: Path) -> Path:
    """Absolute and without `..`, symbolic links kept: the name is what the user sees."""
    return Path(os.path.abspath(path))


def real(path: Path) -> Path:
    """Where links lead in the end. A link that leads in a circle stays what it is."""
    return Path(os.path.realpath(path))


class SourceNames:
    """Gives every path one name and every name one path.

    Invariant: `_names` and `_paths` are inverse to each other, so that `a/main.py` and `b/main.py` of two workspace
    folders never share the name `main.py`.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = tuple(normalize(folder) for folder in folders)
        self._paths: dict[str, Path] = {}
        self._names: dict[Path, str] = {}

    @property
    def folders(self) -> tuple[Path, ...]:
        return self._folders

    @property
    def base(self) -> Path:
        """Where relative paths begin: the first workspace folder, else the server's working folder."""
        return self._folders[0] if self._folders else Path.cwd()

    def set_folders(self, folders: Sequence[Path]) -> None:
        """Names that were given stay as they are."""
        self._folders = tuple(normalize(folder) for folder in folders)

    def of_uri(self, uri: str) -> str:
        path = path_of(uri)
        return uri if path is None else self.of_path(path)

    def of_path(self, path: Path) -> str:
        path = normalize(path)
        if path not in self._names:
            name = self._relative(path)
            name = path.as_posix() if name in self._paths else name
            self._paths[name] = path
            self._names[path] = name
        return self._names[path]

    def known(self, path: Path) -> str | None:
        """The name that a path was given; None if it was given none, and it gets none by this."""
        return self._names.get(normalize(path))

    def path(self, name: str) -> Path | None:
        """The path that has this name; None for URIs and names that were never given."""
        return self._paths.get(name)

    def _relative(self, path: Path) -> str:
        for folder in self._folders:
            if path.is_relative_to(folder) and path != folder:
                return path.relative_to(folder).as_posix()
        return path.as_posix()
