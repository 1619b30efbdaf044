"""The workspace's folders, and what happens to their files: told to the documents and to what is loaded by itself.

Knows who has to hear of what; does nothing with files itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctx_lsp.workspace.admission import Admission
from ctx_lsp.workspace.autoload import Autoload
from ctx_lsp.workspace.ignore_rules import IGNORE_FILES, NEVER
from ctx_lsp.workspace.notebooks import Notebooks
from ctx_lsp.workspace.watching import Watcher

if TYPE_CHECKING:
    from ctx_lsp.session import Session


class Workspace:
    """The folders of one session.

    Attributes:
        watched: set while whatever happens in the folders is told.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.autoload = Autoload(session)
        self.notebooks = Notebooks(session.documents, session.sources)
        self.watched = asyncio.Event()
        self._moved = asyncio.Event()

    async def follow_disk(self) -> None:
        """Has changes on disk told: by the client where it can, else by a watcher, until this is cancelled.

        The workspace is walked only once it is watched, so that no file falls between the two.
        """
        client_watches = await self._session.editor.watch_files()
        watcher = Watcher(self.files_changed)
        try:
            while True:
                self._moved.clear()
                if not client_watches:
                    await watcher.watch(self._session.sources.folders)
                self.watched.set()
                await self._moved.wait()
        finally:
            await watcher.stop()

    def folders_changed(self, folders: Sequence[Path]) -> None:
        """Files of new folders come, and those of folders that are gone leave, unless they are open or the user's."""
        self._session.sources.set_folders(folders)
        self.watched.clear()
        self._moved.set()
        self.rules_changed()

    def rules_changed(self) -> None:
        """Folders, ignore files or options say something new of what may come by itself."""
        documents = self._session.documents
        documents.admission = Admission(self._session.sources.folders, self._session.options.files)
        documents.reconsider()
        self.autoload.renew()

    def files_changed(self, paths: Iterable[Path]) -> None:
        """Told by the client, by the server's own watcher, or by both."""
        paths = [path for path in paths if NEVER.isdisjoint(path.parts)]
        if not paths:
            return
        self._session.documents.files_changed(paths)
        self.autoload.consider(paths)
        if any(path.name in IGNORE_FILES for path in paths):
            self.rules_changed()

    def renamed(self, old: Path, new: Path) -> None:
        self._session.documents.renamed(old, new)
        self.files_changed([old, new])

    def closed(self, uri: str) -> None:
        self._session.documents.close(uri)
        self.autoload.wake()
