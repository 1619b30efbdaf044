"""Watches folders for clients that don't, through what the operating system offers.

Knows folders and paths; knows nothing of what a change means. watchdog is imported when it is first needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver, ObservedWatch

logger = logging.getLogger(__name__)

_GATHERING_SECONDS = 0.05


class Watcher:
    """Tells of changed paths on the event loop, gathered for a moment.

    A folder that can't be watched, as where the system's watches are used up, is left alone and logged: files that are
    in the context are looked at before every question in any case.
    """

    def __init__(self, tell: Callable[[list[Path]], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._observer: BaseObserver | None = None
        self._watches: dict[Path, ObservedWatch] = {}
        self._gathered: dict[Path, None] = {}
        self._guard = threading.Lock()

    async def watch(self, folders: Iterable[Path]) -> None:
        """From now on these folders, with all below them, and no others."""
        await asyncio.to_thread(self._watch, set(folders))

    async def stop(self) -> None:
        observer, self._observer = self._observer, None
        self._watches.clear()
        if observer is not None:
            await asyncio.to_thread(observer.stop)

    # -- on other threads ------------------------------------------------------------------------------------------

    def _watch(self, folders: set[Path]) -> None:
        for folder in self._watches.keys() - folders:
            self._started().unschedule(self._watches.pop(folder))
        for folder in folders - self._watches.keys():
            try:
                self._watches[folder] = self._begin(folder)
            except Exception as error:  # each platform's observer has errors of its own
                logger.warning("%s can't be watched: %s", folder, error)

    def _begin(self, folder: Path) -> ObservedWatch:
        from watchdog import events

        told = [
            events.FileCreatedEvent,
            events.FileModifiedEvent,
            events.FileMovedEvent,
            events.FileDeletedEvent,
            events.DirCreatedEvent,
            events.DirMovedEvent,
            events.DirDeletedEvent,
        ]
        handler = events.FileSystemEventHandler()
        handler.on_any_event = self._take  # type: ignore[method-assign]
        return self._started().schedule(handler, str(folder), recursive=True, event_filter=told)

    def _started(self) -> BaseObserver:
        if self._observer is None:
            from watchdog.observers import Observer

            self._observer = Observer()
            self._observer.start()
        return self._observer

    def _take(self, event: FileSystemEvent) -> None:
        paths = [Path(str(path)) for path in (event.src_path, event.dest_path) if path]
        with self._guard:
            is_first = not self._gathered
            self._gathered |= dict.fromkeys(paths)
        if is_first:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._loop.call_later, _GATHERING_SECONDS, self._flush)

    def _flush(self) -> None:
        with self._guard:
            paths, self._gathered = list(self._gathered), {}
        self._tell(paths)
