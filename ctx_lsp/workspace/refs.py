"""What a chunk is called by: a source, a path, a URI, `#tag`, a hash or the beginning of one, or a pattern.

Pure: chunks and the names of paths come in, hashes go out. Knows nothing of engines, and reads no files.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from ctx_lsp.protocol import ChunkInfo
from ctx_lsp.workspace.sources import SourceNames, normalize, path_of
from engine.errors import AmbiguousChunkError, InvalidRequestError, UnknownChunkError

MIN_PREFIX = 4
_GLOB_CHARS = frozenset("*?[")


class Refs:
    """Finds chunks by what users and clients call them.

    The first of these that means anything decides: a source or a composition's name as it is; a path or URI of a file,
    paths relative to any workspace folder; a tag; a hash; a pattern or folder, which means all chunks that it matches.
    """

    def __init__(self, names: SourceNames) -> None:
        self._names = names

    def resolve(self, refs: Sequence[str], chunks: Sequence[ChunkInfo]) -> list[str]:
        """Hashes of the chunks, each once, in the order of the refs; what one ref means is in the chunks' order.

        Raises UnknownChunkError, AmbiguousChunkError, InvalidRequestError.
        """
        return list(dict.fromkeys(chunk.hash for ref in refs for chunk in self._find(ref, chunks)))

    def _find(self, ref: str, chunks: Sequence[ChunkInfo]) -> Sequence[ChunkInfo]:
        for way in (_by_source, self._by_path, _by_tag, _by_hash, self._by_pattern):
            if ref and (found := way(ref, chunks)):
                return found
        raise UnknownChunkError(_why_nothing(ref), ref=ref)

    def _by_path(self, ref: str, chunks: Sequence[ChunkInfo]) -> Sequence[ChunkInfo]:
        path = path_of(ref)
        paths = self._absolute(ref) if path is None else [path]
        sources = [source for path in paths if (source := self._names.known(path)) is not None]
        return [chunk for source in sources for chunk in _by_source(source, chunks)][:1]

    def _by_pattern(self, ref: str, chunks: Sequence[ChunkInfo]) -> Sequence[ChunkInfo]:
        matchers = [_matcher(path, folder) for path, folder in zip(self._absolute(ref), self._folders(), strict=True)]
        return [
            chunk
            for chunk in chunks
            if any(matches(self._place(source)) for source in chunk.sources for matches in matchers)
        ]

    def _absolute(self, ref: str) -> list[Path]:
        """What a path means in each of the folders."""
        return [normalize(folder / os.path.expanduser(ref)) for folder in self._folders()]

    def _folders(self) -> Sequence[Path]:
        return self._names.folders or (self._names.base,)

    def _place(self, source: str) -> Path:
        """Where a source lies. Compositions and answers are thought to lie in the first folder."""
        return self._names.path(source) or normalize(self._names.base / source)


def _by_source(ref: str, chunks: Sequence[ChunkInfo]) -> Sequence[ChunkInfo]:
    return [chunk for chunk in chunks if ref in chunk.sources]


def _by_tag(ref: str, chunks: Sequence[ChunkInfo]) -> Sequence[ChunkInfo]:
    return [chunk for chunk in chunks if ref.startswith("#") and ref[1:] in chunk.tags]


def _by_hash(ref: str, chunks: Sequence[ChunkInfo]) -> Sequence[ChunkInfo]:
    digits = ref.lower()
    if len(digits) < MIN_PREFIX or not set(digits) <= set(string.hexdigits):
        return []
    found = [chunk for chunk in chunks if chunk.hash.startswith(digits)]
    if len(found) > 1:
        names = ", ".join(f"{chunk.hash[: len(digits) + 8]} ({chunk.name})" for chunk in found)
        hashes = [chunk.hash for chunk in found]
        raise AmbiguousChunkError(f"{ref} could be {names}: give more digits", candidates=hashes)
    return found


def _matcher(pattern: Path, folder: Path) -> Callable[[Path], bool]:
    """Git's patterns: `*` stays within a folder, `**` doesn't, a folder means all below it."""
    base = folder if pattern.is_relative_to(folder) else Path(pattern.anchor)
    line = "**" if pattern == base else "/" + pattern.relative_to(base).as_posix()
    try:
        spec = GitIgnoreSpec.from_lines([line])
    except ValueError as error:
        raise InvalidRequestError(f"{pattern} is no pattern: {error}") from None
    return lambda path: path.is_relative_to(base) and spec.match_file(path.relative_to(base).as_posix())


def _why_nothing(ref: str) -> str:
    if ref.startswith("#"):
        return f"no chunk has the tag {ref}"
    if not _GLOB_CHARS.isdisjoint(ref):
        return f"no chunk matches {ref}"
    return f"no chunk is called {ref or 'nothing'}; the chunks there are have names and hashes in ctx/chunks"
