"""Contexts of one workspace that were saved under names, as files that outlive every session.

A file has everything that its context is made of, texts included, so that nothing else can go missing. Blocking; call
it on a thread. Knows nothing of engines or documents.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cattrs
from attrs import frozen

from ctx_lsp.protocol import ChunkKind
from ctx_lsp.state_folder import StateFolderError, set_aside, write_private
from engine.errors import EngineError, InvalidRequestError

logger = logging.getLogger(__name__)

VERSION = 1
_LONGEST_NAME = 200


class UnknownSavedContextError(EngineError):
    """No context was saved under this name; `data["names"]` lists those there are."""

    code = "unknown_saved_context"
    status = 404


@frozen(kw_only=True)
class SavedSource:
    """`path` is absolute; null for what is no file."""

    name: str
    path: str | None


@frozen(kw_only=True)
class SavedChunk:
    """One chunk in prompt order. `text` is null for a composition, whose `parts` are hashes of others."""

    hash: str
    kind: ChunkKind
    origins: tuple[SavedSource, ...]
    tags: tuple[str, ...]
    parts: tuple[str, ...]
    active: bool
    pinned: bool
    tokens: int
    text: str | None

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(origin.name for origin in self.origins)


@frozen(kw_only=True)
class SavedContext:
    """`saved` is a time as ISO 8601 writes it."""

    name: str
    saved: str
    chunks: tuple[SavedChunk, ...]


class SavedContexts:
    """The saved contexts in one folder, a file each. What can't be read is set aside and said in the log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, context: SavedContext) -> None:
        """Replaces what had its name. Raises InvalidRequestError, StateFolderError."""
        if not 0 < len(context.name) <= _LONGEST_NAME:
            raise InvalidRequestError(f"a saved context needs a name of 1 to {_LONGEST_NAME} characters")
        path = self._path(context.name)
        if path.exists():
            self._load(path)  # one of a newer version must not be overwritten
        body = {"version": VERSION, **cattrs.unstructure(context)}
        try:
            write_private(path, json.dumps(body))
        except OSError as error:
            raise StateFolderError.of(path, error) from None

    def read(self, name: str) -> SavedContext:
        """Raises UnknownSavedContextError, StateFolderError."""
        context = self._load(self._path(name))
        if context is None:
            names = [context.name for context in self.all()]
            known = f"those there are: {', '.join(names)}" if names else "none was saved yet"
            raise UnknownSavedContextError(f"no context was saved as {name!r}; {known}", names=names)
        return context

    def all(self) -> Sequence[SavedContext]:
        """The last saved first."""
        contexts = []
        for path in self._folder.glob("*.json"):
            try:
                contexts.append(self._load(path))
            except StateFolderError as error:
                logger.warning("%s", error.message)
        return sorted(filter(None, contexts), key=lambda context: context.saved, reverse=True)

    def forget(self, name: str) -> SavedContext:
        """Deletes it; returns what it was. Raises UnknownSavedContextError, StateFolderError."""
        context = self.read(name)
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StateFolderError.of(self._path(name), error) from None
        return context

    def _path(self, name: str) -> Path:
        """Any name makes a file's name, and differs from others where file systems don't tell a from A."""
        return self._folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"

    def _load(self, path: Path) -> SavedContext | None:
        """None if there is no such file, or what it holds makes no sense. Raises StateFolderError."""
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["version"] > VERSION:
                raise StateFolderError(f"{path} was saved by a newer version of ctx-lsp", path=str(path))
            context = cattrs.structure(body, SavedContext)
            if damaged := [chunk.sources for chunk in context.chunks if not _is_whole(chunk)]:
                raise ValueError(f"the text of {damaged} is not the one that was saved")
            return context
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFolderError.of(path, error) from None
        except (ValueError, TypeError, KeyError, cattrs.BaseValidationError) as error:
            logger.warning("the saved context %s is broken and is set aside: %s", path, error)
            with suppress(OSError):
                set_aside(path)
            return None


def _is_whole(chunk: SavedChunk) -> bool:
    return chunk.text is None or hashlib.sha256(chunk.text.encode()).hexdigest() == chunk.hash
