"""The list of a workspace's files that may be loaded by themselves, kept up to date with little work.

Walks the folders once, then follows what is told of single files. Knows paths and dates; knows nothing of chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from ctx_lsp.workspace.admission import MOST_CANDIDATES, Admission, Candidate

_MOST_EVENTS = 2000


class Candidates:
    """The files of one workspace.

    Invariants: `_known` are None, or the files as of the last `look` but for `_events`; `_walks` counts the walks that
    were called for, and one that is no longer the last of them ends early and is forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[Path, Candidate] | None = None
        self._events: dict[Path, None] = {}
        self._walks = 0

    def renew(self) -> None:
        """Folders or rules have changed: the workspace has to be walked again."""
        self._known = None
        self._walks += 1

    def consider(self, paths: Iterable[Path]) -> None:
        """Files, or folders with what is in them, were created, changed or deleted."""
        self._events |= dict.fromkeys(paths)
        if len(self._events) > _MOST_EVENTS:
            self.renew()

    async def look(self, admission: Admission) -> tuple[list[Candidate], bool]:
        """The files, the latest first, and whether they are others than before."""
        walk = self._walks
        known, self._known = self._known, None  # if this is cancelled, all is looked at next time
        events, self._events = self._events, {}
        if known is None:
            found = await asyncio.to_thread(admission.candidates, lambda: self._walks != walk)
            known, are_new = {candidate.path: candidate for candidate in found}, True
        else:
            are_new = await asyncio.to_thread(_follow, events, known, admission)
        if self._walks == walk:
            self._known = known
        return sorted(known.values(), reverse=True), are_new


def _follow(events: Iterable[Path], known: dict[Path, Candidate], admission: Admission) -> bool:
    """Brings single files up to date; folders, by walking them. Returns whether that made a difference. Blocking."""
    before = dict(known)
    for path in events:
        for other in [other for other in known if other == path or path in other.parents]:
            del known[other]
        found = admission.below(path) if path.is_dir() else filter(None, [admission.candidate(path)])
        known.update((candidate.path, candidate) for candidate in found)
    for candidate in sorted(known.values())[:-MOST_CANDIDATES]:
        del known[candidate.path]
    return known != before
