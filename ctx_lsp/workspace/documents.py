"""Which texts the context should hold, and getting them there: open documents, files on disk, and their changes.

One truth per source: the client's text while a document is open, the disk's while it isn't. Knows LSP documents and
files; how a text becomes a chunk is the `Shelf`'s business, and whose it is the `Ledger`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from lsprotocol import types

from ctx_lsp.protocol import DocumentMode
from ctx_lsp.workspace.admission import Admission
from ctx_lsp.workspace.exclusions import why_text
from ctx_lsp.workspace.followed_files import FollowedFiles
from ctx_lsp.workspace.ledger import Ledger
from ctx_lsp.workspace.open_documents import OpenDocument, OpenDocuments
from ctx_lsp.workspace.pending import Pending
from ctx_lsp.workspace.sources import SourceNames, is_chattable, path_of
from ctx_lsp.workspace.workspace_files import UnusableFileError, why_too_large

logger = logging.getLogger(__name__)


class Shelf(Protocol):
    """Where texts go."""

    async def put(self, source: str, text: str) -> None: ...
    async def remove(self, source: str) -> None: ...
    async def settle(self) -> None:
        """Everything was put and removed; called before anybody else can begin to."""


class Documents:
    """Open documents and followed files, and which of them have to be brought to the shelf.

    Invariants: `_pending` are the sources whose text on the shelf may not be the wanted one; `_shelved` has the text
    last put under each source, or None where the shelf may have any; `_files` are those that are wanted from the disk
    while they aren't open.

    Attributes:
        debounce: seconds that a document must rest.
        admission: what may come by itself; see `reconsider`.
        rested: set when a document has rested long enough for its text to be taken to the shelf.
    """

    def __init__(
        self,
        sources: SourceNames,
        ledger: Ledger,
        admission: Admission,
        mode: DocumentMode,
        debounce: float,
        encoding: str,
    ) -> None:
        self._mode = mode
        self.debounce = debounce
        self.admission = admission
        self._sources = sources
        self._ledger = ledger
        self._open = OpenDocuments(encoding)
        self._files = FollowedFiles(sources)
        self._dismissed: set[str] = set()
        self._shelved: dict[str, str | None] = {}
        self._pending = Pending()
        self._unsettled = False
        self._lock = asyncio.Lock()
        self.rested = self._pending.rested

    def configure(self, mode: DocumentMode, debounce: float) -> None:
        """Takes other options; in another mode, open documents come or go by themselves."""
        self.debounce = debounce
        if mode != self._mode:
            self._mode = mode
            self.reconsider()

    # -- what the client says --------------------------------------------------------------------------------------

    def open(self, item: types.TextDocumentItem) -> None:
        self.open_as(self._sources.of_uri(item.uri), item, home=item.uri)

    def open_as(self, source: str, item: types.TextDocumentItem, home: str) -> None:
        """Opens what has another name than its own URI's, such as a cell of the notebook `home`."""
        self._open.open(OpenDocument(item.uri, home, source, item.version, item.text))
        self._dismissed.discard(source)
        self._ledger.give(source)
        self._ledger.touch(source)
        self._pending.rest(source, 0)

    def change(self, params: types.DidChangeTextDocumentParams) -> None:
        place = params.text_document
        document = self._open.change(place.uri, place.version, params.content_changes)
        if document is not None:
            self._ledger.touch(document.source)
            self._pending.rest(document.source, self.debounce)

    def close(self, uri: str) -> None:
        """What is the user's stays as it is on disk. Waits a moment: a renamed document is closed and opened anew."""
        document = self._open.close(uri)
        if document is not None:
            if self._ledger.is_users(document.source):
                self._files.follow(document.source)
            self._pending.rest(document.source, self.debounce)

    def save(self, uri: str) -> None:
        """Whoever saves has finished a thought: don't wait any longer."""
        document = self._open.get(uri)
        if document is not None and document.source in self._pending:
            self._pending.rest(document.source, 0)

    def show(self, uris: Iterable[str]) -> None:
        """Only these documents are in a tab or an editor."""
        for document in self._open.show(uris):
            if self._open.shows(document):
                self._ledger.touch(document.source)
            self._pending.rest(document.source, 0)

    def touch(self, uri: str) -> None:
        """The user asks about this document."""
        document = self._open.get(uri)
        if document is not None:
            self._ledger.touch(document.source)

    # -- what happens on disk --------------------------------------------------------------------------------------

    def files_changed(self, paths: Iterable[Path]) -> None:
        """Files, or folders with all that is in them, were created, changed or deleted."""
        for source in self._files.told(paths):
            self._pending.rest(source, self.debounce)

    def renamed(self, old: Path, new: Path) -> None:
        """A file, or a folder with all that is in it, has another name now; whose it is stays as it was."""
        for source, name in self._files.below(old, new).items():
            self._rename(source, name)

    # -- what the user says, and what is loaded by itself ----------------------------------------------------------

    def load(self, path: Path) -> str:
        """Wants a file in the context whether it is open or not; returns its source."""
        source = self._sources.of_path(path)
        self._dismissed.discard(source)
        self._ledger.take([source])
        self._files.follow(source)
        self._pending.add([source])
        return source

    def offer(self, path: Path, modified: float) -> str | None:
        """The same for a file that nobody asked for; None if the user had it taken out."""
        source = self._sources.of_path(path)
        if source in self._dismissed:
            return None
        self._ledger.give(source, modified)
        if source not in self._files:
            self._files.follow(source)
            self._pending.add([source])
        return source

    def withdraw(self, source: str) -> None:
        """Takes back what was offered, unless it is the user's by now."""
        if not self._ledger.is_users(source) and source in self._files:
            self._files.drop(source)
            self._pending.add([source])

    def dismiss(self, sources: Iterable[str]) -> None:
        """The user took these out of the context: neither an edit nor a restart brings them back."""
        for source in sources:
            self._files.drop(source)
            self._shelved.pop(source, None)
            self._dismissed.add(source)
            self._ledger.forget([source])

    def dismiss_all(self) -> None:
        self.dismiss([*self._shelved, *self._files, *(document.source for document in self._open)])

    def is_open(self, path: Path) -> bool:
        source = self._sources.known(path)
        return source is not None and self._open.of_source(source) is not None

    def open_paths(self) -> list[Path]:
        """Files whose truth is the client's text now."""
        paths = (path_of(document.uri) for document in self._open if document.text)
        return [path for path in paths if path is not None]

    def text(self, uri: str) -> str | None:
        """The text of an open document."""
        document = self._open.get(uri)
        return None if document is None else document.text

    def find(self, uri: str) -> OpenDocument | None:
        """The open document of this URI, or of the same file by another spelling of it."""
        return self._open.get(uri) or self._open.of_source(self._sources.of_uri(uri))

    def is_pending(self, source: str) -> bool:
        """Whether the shelf may have to hear of this text yet."""
        return source in self._pending

    # -- to the shelf ----------------------------------------------------------------------------------------------

    async def flush(self, shelf: Shelf, *, only_rested: bool = False) -> None:
        """Brings every wanted text to the shelf, in the order of their changes.

        What leaves goes last, so that a text which has only another name is never gone. `only_rested` leaves out
        documents that changed a moment ago. What can't be brought because the call fails or is cancelled stays pending.
        """
        async with self._lock:
            self._pending.add(await self._files.changed(lambda source: self._open.of_source(source) is None))
            leaving: dict[str, None] = {}
            while (source := self._pending.next(only_rested=only_rested) or next(iter(leaving), None)) is not None:
                is_last_call = source not in self._pending
                self._pending.take(source)
                leaving.pop(source, None)
                try:
                    text = await self._wanted(source)
                    if text is None and source in self._shelved and not is_last_call:
                        leaving[source] = None
                        continue
                    if await self._bring(shelf, source, text):
                        self._unsettled = True
                except BaseException:
                    self._pending.put_back([source, *leaving])
                    raise
            if self._unsettled:
                await shelf.settle()
                self._unsettled = False

    def forget_shelf(self) -> None:
        """The shelf was lost, and another may hold what this one once held: everything has to be brought again."""
        self._pending.add([*self._shelved, *self._files])
        self._shelved = dict.fromkeys(self._shelved)
        self.reconsider()

    def reconsider(self) -> None:
        """The rules of what comes by itself have changed: every open document has to be looked at again."""
        self._pending.add(document.source for document in self._open)
        self.rested.set()

    def cancel_timers(self) -> None:
        self._pending.cancel_timers()

    async def _bring(self, shelf: Shelf, source: str, text: str | None) -> bool:
        if text == self._shelved.get(source) and not (text is None and source in self._shelved):
            return False
        if text is not None:
            await shelf.put(source, text)
            self._shelved[source] = text
            return True
        heir = await self._heir(source)
        if heir is not None:
            self._rename(source, heir)
            await self._bring(shelf, heir, await self._wanted(heir))
        await shelf.remove(source)
        self._shelved.pop(source, None)
        return True

    async def _wanted(self, source: str) -> str | None:
        """The text the context should have under this source; None for none. An empty text makes no chunk."""
        document = self._open.of_source(source)
        reason: str | None = None
        text: str | None = None
        if document is not None:
            text = document.text or None
            if not self._ledger.is_users(source):
                text, reason = await self._judge(document)
        elif source in self._files:
            text, reason = await self._read(source)
        elif source not in self._shelved:
            self._ledger.forget([source])
        if reason is not None:
            self._ledger.leave_out(source, reason)
        elif text is None:
            self._ledger.admit(source)
        return text

    async def _judge(self, document: OpenDocument) -> tuple[str | None, str | None]:
        """The text of a document that nobody asked for, or why it may not come by itself where that is worth saying."""
        comes = self._mode == "open" and self._open.shows(document) and document.source not in self._dismissed
        if not document.text or not is_chattable(document.home) or not (comes or document.source in self._files):
            return None, None
        path = path_of(document.home)
        if path is not None:
            judge = self.admission.why_not if document.home == document.uri else self.admission.why_private
            reason = await asyncio.to_thread(judge, path)
        else:
            reason = None
        reason = reason or why_too_large(document.text) or why_text(document.text)
        return (document.text, None) if reason is None else (None, f"{reason}; load it by name to have it all the same")

    async def _read(self, source: str) -> tuple[str | None, str | None]:
        """What a file holds, or why it can't be used where that is worth saying."""
        path = self._files.path(source)
        if not self._ledger.is_users(source) and await asyncio.to_thread(self.admission.why_not, path) is not None:
            self._files.drop(source)
            return None, None
        try:
            return await self._files.read(source), None
        except UnusableFileError as error:
            logger.info("%s leaves the context: %s", path, error)
            return None, None if self._files.is_gone(source) else str(error)

    async def _heir(self, source: str) -> str | None:
        """The file that has the text of one that is gone, and came when that one went."""
        text = self._shelved[source]
        if text is None or not self._files.is_gone(source):
            return None
        return await self._files.find_arrival(text, lambda path: self.admission.why_not(path) is None)

    def _rename(self, old: str, new: str) -> None:
        self._ledger.rename(old, new)
        self._files.drop(old)
        self._files.follow(new)
        self._pending.add([new, old])
        self.rested.set()
