"""Which files of a folder are ignored, by `.gitignore` and `.ctxignore` at every level, and the way through the others.

`.ctxignore` has the same syntax and the last word. Knows file names and patterns; reads nothing but those two and
`.git/info/exclude`. Blocking.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from ctx_lsp.workspace.sources import real

IGNORE_FILES = (".ctxignore", ".gitignore")
"""In the order in which they are asked."""

NEVER = frozenset({".git", ".hg", ".svn", "__pycache__"})


class IgnoreRules:
    """The rules that hold below `root`; files of patterns are read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._specs: dict[Path, GitIgnoreSpec | None] = {}

    def why_ignored(self, path: Path) -> str | None:
        """Whether a file below the root is left out, by itself or by a folder that it is in."""
        parts = path.relative_to(self._root).parts
        for depth in range(1, len(parts) + 1):
            step = self._root.joinpath(*parts[:depth])
            if (reason := self.why(step, is_folder=depth < len(parts))) is not None:
                return reason
        return None

    def why(self, path: Path, *, is_folder: bool) -> str | None:
        """Whether a path below the root is left out by itself; asks nothing about its parents."""
        if path.name in NEVER:
            return f"below {path.name}"
        for name in IGNORE_FILES:
            for folder in path.parents:
                verdict = self._verdict(folder / name, path, is_folder)
                if verdict is not None:
                    return f"ignored by {name}" if verdict else None
                if folder == self._root:
                    break
        return None

    def _verdict(self, file: Path, path: Path, is_folder: bool) -> bool | None:
        spec = self._spec(file)
        if spec is None:
            return None
        relative = path.relative_to(file.parent).as_posix()
        return spec.check_file(relative + "/" if is_folder else relative).include

    def _spec(self, file: Path) -> GitIgnoreSpec | None:
        if file not in self._specs:
            lines = _lines(file)
            if file == self._root / ".gitignore":
                lines = _lines(self._root / ".git" / "info" / "exclude") + lines
            self._specs[file] = GitIgnoreSpec.from_lines(lines) if lines else None
        return self._specs[file]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def repository_root(folder: Path) -> Path:
    """The nearest folder upwards that holds `.git`, else the folder itself."""
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), folder)


def walk(
    folder: Path,
    within: Iterable[Path] = (),
    elsewhere: Iterable[Path] = (),
    skips: Callable[[str], bool] = lambda name: False,
) -> Iterator[Path]:
    """Files below a folder that are not ignored, sorted within each folder.

    Links to folders come last. They are followed only to folders that lie in one of `within` (this one, if none is
    given), only once, and not into what is walked `elsewhere`. `skips`: names of folders that are left out as well.
    """
    rules = IgnoreRules(repository_root(folder))
    homes = [real(home) for home in within] or [real(folder)]
    seen = [real(folder), *(real(other) for other in elsewhere)]
    links: deque[Path] = deque()
    yield from _walk_folder(folder, rules, skips, links)
    while links:
        link = links.popleft()
        target = real(link)
        if any(target.is_relative_to(home) for home in homes) and not _overlaps(target, seen):
            seen.append(target)
            yield from _walk_folder(link, rules, skips, links)


def _walk_folder(folder: Path, rules: IgnoreRules, skips: Callable[[str], bool], links: deque[Path]) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        kept = [name for name in sorted(folders) if not skips(name) and rules.why(here / name, is_folder=True) is None]
        linked = [name for name in kept if (here / name).is_symlink()]
        links.extend(here / name for name in linked)
        folders[:] = [name for name in kept if name not in linked]
        yield from (here / name for name in sorted(files) if rules.why(here / name, is_folder=False) is None)


def _overlaps(target: Path, seen: Iterable[Path]) -> bool:
    """Whether some of its files were met already."""
    return any(target.is_relative_to(other) or other.is_relative_to(target) for other in seen)
