"""Which files of a folder Git would leave out: `.gitignore` files at every level, nested ones first.

Knows file names and patterns; reads nothing but `.gitignore`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

_NEVER = frozenset({".git", ".hg", ".svn", "__pycache__"})


class IgnoreRules:
    """The rules that hold below `root`; files of patterns are read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._specs: dict[Path, GitIgnoreSpec | None] = {}

    def ignores(self, path: Path, *, is_folder: bool) -> bool:
        """Whether a path below the root is left out by itself; asks nothing about its parents."""
        if path.name in _NEVER:
            return True
        for folder in path.parents:
            verdict = self._verdict(folder, path, is_folder)
            if verdict is not None:
                return verdict
            if folder == self._root:
                break
        return False

    def _verdict(self, folder: Path, path: Path, is_folder: bool) -> bool | None:
        spec = self._spec(folder)
        if spec is None:
            return None
        relative = path.relative_to(folder).as_posix()
        return spec.check_file(relative + "/" if is_folder else relative).include

    def _spec(self, folder: Path) -> GitIgnoreSpec | None:
        if folder not in self._specs:
            try:
                lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                self._specs[folder] = None
            else:
                self._specs[folder] = GitIgnoreSpec.from_lines(lines)
        return self._specs[folder]


def repository_root(folder: Path) -> Path:
    """The nearest folder upwards that holds `.git`, else the folder itself."""
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder that are not ignored, sorted within each folder. Links to folders are not followed."""
    rules = IgnoreRules(repository_root(folder))
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not rules.ignores(here / name, is_folder=True))
        yield from (here / name for name in sorted(files) if not rules.ignores(here / name, is_folder=False))
