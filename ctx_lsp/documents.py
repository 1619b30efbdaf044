"""Which texts the context should hold, and getting them there: open documents, loaded files, and their changes.

One truth per source: the client's text while a document is open, the disk's while it isn't. Knows LSP documents and
files; how a text becomes a chunk is the `Shelf`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lsprotocol import types

from ctx_lsp.protocol import DocumentMode
from ctx_lsp.sources import SourceNames, is_chattable, path_of
from ctx_lsp.text_sync import apply_changes
from ctx_lsp.workspace_files import UnusableFileError, read_text

logger = logging.getLogger(__name__)

Signature = tuple[int, int]


class Shelf(Protocol):
    """Where texts go."""

    async def put(self, source: str, text: str) -> None: ...
    async def remove(self, source: str) -> None: ...


@dataclass
class OpenDocument:
    """A document as the client has it."""

    uri: str
    source: str
    version: int
    text: str


class Documents:
    """Open documents and loaded files, and which of them have to be brought to the shelf.

    Invariants: `_dirty` holds, in the order in which they changed, the sources whose text on the shelf may not be the
    wanted one; a source has a timer only while it is dirty; `_shelved` has the text last put under each source,
    or None where the shelf may have any.
    """

    def __init__(self, sources: SourceNames, mode: DocumentMode, debounce: float, encoding: str) -> None:
        self._sources = sources
        self._mode = mode
        self._debounce = debounce
        self._encoding = encoding
        self._open: dict[str, OpenDocument] = {}
        self._loaded: dict[str, Signature | None] = {}
        self._dismissed: set[str] = set()
        self._shelved: dict[str, str | None] = {}
        self._dirty: dict[str, None] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._lock = asyncio.Lock()
        self.rested = asyncio.Event()
        """Set when a document has rested long enough for its text to be taken to the shelf."""

    def configure(self, mode: DocumentMode, debounce: float) -> None:
        """Takes other options; in another mode, open documents come or go by themselves."""
        self._debounce = debounce
        if mode != self._mode:
            self._mode = mode
            for document in self._open.values():
                self._touch(document.source, delay=0)

    # -- what the client says --------------------------------------------------------------------------------------

    def open(self, item: types.TextDocumentItem) -> None:
        source = self._sources.of_uri(item.uri)
        self._open[item.uri] = OpenDocument(item.uri, source, item.version, item.text)
        self._dismissed.discard(source)
        self._touch(source, delay=0)

    def change(self, params: types.DidChangeTextDocumentParams) -> None:
        document = self._open.get(params.text_document.uri)
        if document is None:
            logger.warning("a change to %s, which is not open", params.text_document.uri)
            return
        document.text = apply_changes(document.text, params.content_changes, self._encoding)
        document.version = params.text_document.version
        self._touch(document.source, delay=self._debounce)

    def close(self, uri: str) -> None:
        document = self._open.pop(uri, None)
        if document is not None:
            self._touch(document.source, delay=0)

    def save(self, uri: str) -> None:
        """Whoever saves has finished a thought: don't wait any longer."""
        document = self._open.get(uri)
        if document is not None and document.source in self._dirty:
            self._touch(document.source, delay=0)

    def files_changed(self, paths: Iterable[Path]) -> None:
        """Files changed on disk; matters to those that were loaded and aren't open."""
        for path in paths:
            source = self._sources.of_path(path)
            if source in self._loaded and self._document(source) is None:
                self._touch(source, delay=self._debounce)

    # -- what the user says ----------------------------------------------------------------------------------------

    def load(self, path: Path) -> str:
        """Wants a file in the context whether it is open or not; returns its source."""
        source = self._sources.of_path(path)
        self._loaded[source] = None
        self._dismissed.discard(source)
        self._dirty[source] = None
        return source

    def dismiss(self, sources: Iterable[str]) -> None:
        """The user took these out of the context: neither an edit nor a restart brings them back."""
        for source in sources:
            self._loaded.pop(source, None)
            self._shelved.pop(source, None)
            self._dismissed.add(source)

    def dismiss_all(self) -> None:
        self.dismiss([*self._shelved, *self._loaded, *(document.source for document in self._open.values())])

    def open_paths(self) -> list[Path]:
        """Files whose truth is the client's text now."""
        paths = (path_of(document.uri) for document in self._open.values() if document.text)
        return [path for path in paths if path is not None]

    def text(self, uri: str) -> str | None:
        """The text of an open document."""
        document = self._open.get(uri)
        return None if document is None else document.text

    def find(self, uri: str) -> OpenDocument | None:
        """The open document of this URI, or of the same file by another spelling of it."""
        return self._open.get(uri) or self._document(self._sources.of_uri(uri))

    def is_pending(self, source: str) -> bool:
        """Whether the shelf may have to hear of this text yet."""
        return source in self._dirty

    # -- to the shelf ----------------------------------------------------------------------------------------------

    async def flush(self, shelf: Shelf, *, only_rested: bool = False) -> bool:
        """Brings every wanted text to the shelf, in the order of their changes; True if anything changed there.

        `only_rested` leaves out documents that changed a moment ago. What can't be brought because the call fails or
        is cancelled stays dirty.
        """
        async with self._lock:
            await self._notice_disk_changes()
            changed = False
            while (source := self._next_dirty(only_rested)) is not None:
                self._forget_dirty(source)
                try:
                    changed = await self._bring(shelf, source) or changed
                except BaseException:
                    self._dirty = {source: None, **self._dirty}
                    raise
            return changed

    def forget_shelf(self) -> None:
        """The shelf was lost, and another may hold what this one once held: everything has to be brought again."""
        wanted = [*self._shelved, *self._loaded, *(document.source for document in self._open.values())]
        self._shelved = dict.fromkeys(self._shelved)
        self._dirty = {**self._dirty, **dict.fromkeys(wanted)}

    def cancel_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def _bring(self, shelf: Shelf, source: str) -> bool:
        text = await self._wanted(source)
        if text == self._shelved.get(source) and not (text is None and source in self._shelved):
            return False
        if text is None:
            await shelf.remove(source)
            self._shelved.pop(source, None)
        else:
            await shelf.put(source, text)
            self._shelved[source] = text
        return True

    async def _wanted(self, source: str) -> str | None:
        """The text the context should have under this source; None for none. An empty text makes no chunk."""
        document = self._document(source)
        if document is not None and self._is_wanted(document):
            return document.text or None
        path = self._sources.path(source)
        if document is not None or source not in self._loaded or path is None:
            return None
        try:
            self._loaded[source] = await asyncio.to_thread(_signature, path)
            return await asyncio.to_thread(read_text, path)
        except UnusableFileError as error:
            logger.info("%s leaves the context: %s", path, error)
            return None

    async def _notice_disk_changes(self) -> None:
        """Clients need not report changed files, so the loaded ones are looked at before every question."""
        paths = {
            source: path
            for source in self._loaded
            if self._document(source) is None and (path := self._sources.path(source)) is not None
        }
        signatures = await asyncio.to_thread(lambda: {source: _signature(path) for source, path in paths.items()})
        for source, signature in signatures.items():
            if source in self._loaded and self._loaded[source] != signature:
                self._dirty[source] = None

    def _is_wanted(self, document: OpenDocument) -> bool:
        if document.source in self._loaded:
            return True
        return self._mode == "open" and document.source not in self._dismissed and is_chattable(document.uri)

    def _document(self, source: str) -> OpenDocument | None:
        return next((document for document in self._open.values() if document.source == source), None)

    def _touch(self, source: str, delay: float) -> None:
        self._dirty[source] = None
        if source in self._timers:
            self._timers[source].cancel()
        self._timers[source] = asyncio.get_running_loop().call_later(delay, self._rest, source)

    def _next_dirty(self, only_rested: bool) -> str | None:
        return next((source for source in self._dirty if not (only_rested and source in self._timers)), None)

    def _rest(self, source: str) -> None:
        del self._timers[source]
        self.rested.set()

    def _forget_dirty(self, source: str) -> None:
        del self._dirty[source]
        timer = self._timers.pop(source, None)
        if timer is not None:
            timer.cancel()


def _signature(path: Path) -> Signature | None:
    """Changes whenever the file's content does; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
