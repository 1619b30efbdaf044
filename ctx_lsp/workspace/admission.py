"""Whether a file may come into the context by itself, and which of a workspace's files come first.

Knows names, ignore files and dates; knows nothing of chunks, documents or budgets. Blocking; call it on a thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from pathspec import GitIgnoreSpec

from ctx_lsp.protocol import FileOptions
from ctx_lsp.workspace.exclusions import below, is_dull_folder, why_dull, why_secret
from ctx_lsp.workspace.ignore_rules import IgnoreRules, repository_root, walk
from ctx_lsp.workspace.sources import real
from ctx_lsp.workspace.workspace_files import MAX_BYTES

MOST_CANDIDATES = 2000
"""No budget has room for more files; so the memory is bounded, however large the workspace is."""


@dataclass(frozen=True, order=True)
class Candidate:
    """A file that may be loaded by itself; the greater one was changed later."""

    modified: float
    path: Path
    size: int


@dataclass(frozen=True)
class Admission:
    """The rules of one set of folders and options, as the ignore files are now: make a new one when they change."""

    folders: Sequence[Path]
    options: FileOptions

    def why_not(self, path: Path) -> str | None:
        """Why this file, though it may be open, doesn't come by itself; None if it may."""
        return self.why_private(path) or why_dull(below(path, self.folders))

    def why_private(self, path: Path) -> str | None:
        """The same for a file that can't be dull, as a notebook's cells can't."""
        names = (below(path, self.folders), below(real(path), self.folders))
        return next(filter(None, map(why_secret, names)), None) or self._why_ignored(path)

    def candidates(self, is_over: Callable[[], bool] = lambda: False) -> list[Candidate]:
        """The workspace's files that may be loaded, the latest first. Ends early when the caller says so."""
        return heapq.nlargest(MOST_CANDIDATES, self._found(is_over))

    def below(self, folder: Path) -> list[Candidate]:
        """Those in one folder of the workspace."""
        if not any(folder.is_relative_to(home) for home in self.folders) or self.why_not(folder / "file") is not None:
            return []
        return heapq.nlargest(MOST_CANDIDATES, self._found_below(folder, self.folders))

    def candidate(self, path: Path) -> Candidate | None:
        """This one file as a candidate, if it is one."""
        is_inside = any(path.is_relative_to(folder) for folder in self.folders)
        if not is_inside or not self._is_chosen(below(path, self.folders)) or self.why_not(path) is not None:
            return None
        return _dated(path)

    def _found(self, is_over: Callable[[], bool]) -> Iterator[Candidate]:
        outermost = _outermost(self.folders)
        for folder in outermost:
            yield from self._found_below(folder, outermost, is_over)

    def _found_below(
        self, folder: Path, elsewhere: Sequence[Path], is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[Candidate]:
        for path in walk(folder, self.folders, elsewhere, is_dull_folder):
            if is_over():
                return
            inner = below(path, self.folders)
            if self._is_chosen(inner) and why_secret(inner) is None and why_dull(inner) is None:
                candidate = _dated(path)
                if candidate is not None and self._is_at_home(path):
                    yield candidate

    def _is_chosen(self, inner: PurePath) -> bool:
        """What the options include and don't exclude."""
        name = inner.as_posix()
        return (self._include is None or self._include.match_file(name)) and not self._exclude.match_file(name)

    def _is_at_home(self, path: Path) -> bool:
        """A link must not bring in what lies elsewhere, or is called by a harmless name only here."""
        if not path.is_symlink():
            return True
        target = real(path)
        return any(target.is_relative_to(real(folder)) for folder in self.folders) and (
            why_secret(below(target, self.folders)) is None
        )

    def _why_ignored(self, path: Path) -> str | None:
        home = next((folder for folder in self.folders if path.is_relative_to(folder)), path.parent)
        root = repository_root(home)
        rules = self._rules.setdefault(root, IgnoreRules(root))
        return rules.why_ignored(path)

    @cached_property
    def _rules(self) -> dict[Path, IgnoreRules]:
        return {}

    @cached_property
    def _include(self) -> GitIgnoreSpec | None:
        return GitIgnoreSpec.from_lines(self.options.include) if self.options.include else None

    @cached_property
    def _exclude(self) -> GitIgnoreSpec:
        return GitIgnoreSpec.from_lines(self.options.exclude)


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Without those that lie in another one, whose files would come twice."""
    return [
        folder for folder in folders if not any(folder != other and folder.is_relative_to(other) for other in folders)
    ]


def _dated(path: Path) -> Candidate | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Candidate(status.st_mtime, path, status.st_size) if 0 < status.st_size <= MAX_BYTES else None
