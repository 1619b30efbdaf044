"""The files whose text on disk is wanted in the context, and what has become of them since they were read.

Knows sources, paths and texts; knows nothing of documents, or of who wants a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ctx_lsp.workspace.arrivals import Arrivals
from ctx_lsp.workspace.sources import SourceNames
from ctx_lsp.workspace.workspace_files import Signature, read_text, signature_of


class FollowedFiles:
    """Sources that are followed, each with the signature it had when it was read last, None if it was not there."""

    def __init__(self, sources: SourceNames) -> None:
        self._sources = sources
        self._signatures: dict[str, Signature | None] = {}
        self._arrivals = Arrivals()

    def __contains__(self, source: str) -> bool:
        return source in self._signatures

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._signatures))

    def follow(self, source: str) -> None:
        """From now on, if it names a file."""
        if self._sources.path(source) is not None:
            self._signatures.setdefault(source, None)

    def drop(self, source: str) -> None:
        self._signatures.pop(source, None)

    def path(self, source: str) -> Path:
        path = self._sources.path(source)
        assert path is not None, "only files are followed"
        return path

    def is_gone(self, source: str) -> bool:
        """Whether it is followed and was not there when it was read last."""
        return source in self._signatures and self._signatures[source] is None

    async def read(self, source: str) -> str:
        """Its text now. Raises UnusableFileError."""
        path = self.path(source)
        signature = await asyncio.to_thread(signature_of, path)
        if source in self._signatures:
            self._signatures[source] = signature
        return await asyncio.to_thread(read_text, path)

    async def changed(self, concerns: Callable[[str], bool]) -> list[str]:
        """Those that are not as they were when they were read, of those that are of concern."""
        paths = {source: self.path(source) for source in self if concerns(source)}
        signatures = await asyncio.to_thread(lambda: {source: signature_of(path) for source, path in paths.items()})
        return [source for source, now in signatures.items() if self._signatures.get(source, now) != now]

    def told(self, paths: Iterable[Path]) -> list[str]:
        """Those that are concerned when files, or folders with what is in them, were created, changed or deleted."""
        changed = set(paths)
        self._arrivals.add(path for path in changed if self._sources.known(path) not in self._signatures)
        return [source for source in self if not changed.isdisjoint((self.path(source), *self.path(source).parents))]

    def below(self, old: Path, new: Path) -> dict[str, str]:
        """What each of those in a file or folder is called when that has another name."""
        paths = {source: self.path(source) for source in self}
        return {
            source: self._sources.of_path(new / path.relative_to(old))
            for source, path in paths.items()
            if path.is_relative_to(old)
        }

    async def find_arrival(self, text: str, accepts: Callable[[Path], bool]) -> str | None:
        """The source of a file that has this text and was reported lately without being followed."""
        path = await asyncio.to_thread(self._arrivals.find, text)
        if path is None or not await asyncio.to_thread(accepts, path):
            return None
        return self._sources.of_path(path)
