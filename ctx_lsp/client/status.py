"""The server's status: one value, its changes told to the editor at a bearable rate, long work shown as progress bars.

Knows the states and how each is shown; knows nothing of what brings them about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs

from ctx_lsp import protocol
from ctx_lsp.client import logs
from ctx_lsp.client.announcement import Announcement
from ctx_lsp.client.editor import Editor
from ctx_lsp.client.progress import ProgressBar
from ctx_lsp.protocol import ChunksDidChange, PopulatePhase, PopulateState, Status

_QUIET_SECONDS = 0.1


class StatusBoard:
    """Holds the current status. `update` changes fields; whoever listens hears of each state they end up in."""

    def __init__(self, editor: Editor, model: str | None, stop_populating: Callable[[], None]) -> None:
        """`stop_populating` is called when the user cancels prefill; that an engine starts can't be cancelled."""
        log_file = None if (path := logs.file()) is None else str(path)
        self._status = Status(state="starting", message="not started yet", model=model, log_file=log_file)
        self._announcement: Announcement[Status] = Announcement(
            partial(editor.notify, protocol.STATUS_DID_CHANGE), _QUIET_SECONDS
        )
        self._chunks: Announcement[ChunksDidChange] = Announcement(
            partial(editor.notify, protocol.CHUNKS_DID_CHANGE), _QUIET_SECONDS
        )
        self._watchers: list[Callable[[PopulateState | None], None]] = []
        self._loading = ProgressBar(editor, "Starting the engine")
        self._bars: dict[PopulatePhase, ProgressBar] = {
            "populate": ProgressBar(editor, "Reading files", stop_populating),
            "refine": ProgressBar(editor, "Refining", stop_populating),
        }

    @property
    def status(self) -> Status:
        return self._status

    def update(self, **changes: Any) -> None:
        status = attrs.evolve(self._status, **changes)
        if status == self._status:
            return
        self._status = status
        self._announcement.put(status)
        self._show_loading(status)

    def show_populate(self, state: PopulateState | None) -> None:
        """None, or a state in which all is done, says that nothing goes on."""
        busy = state if state is not None and state.done < state.total else None
        self.update(populate=busy)
        for watcher in list(self._watchers):
            watcher(busy)
        for phase, bar in self._bars.items():
            if busy is not None and busy.phase == phase:
                bar.show(f"{busy.done:,} of {busy.total:,} tokens", busy.done / busy.total)
            else:
                bar.done()

    @contextmanager
    def populate_watched(self, watcher: Callable[[PopulateState | None], None]) -> Iterator[None]:
        """Tells `watcher` of all that `show_populate` is told while the block runs."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    def chunks_changed(self, active_tokens: int, limit: int) -> None:
        self.update(active_tokens=active_tokens, limit=limit)
        self._chunks.put(ChunksDidChange(active_tokens=active_tokens, limit=limit))

    def stop(self) -> None:
        self._announcement.stop()
        self._chunks.stop()

    def _show_loading(self, status: Status) -> None:
        if status.state in ("starting", "loading"):
            self._loading.show(status.message, status.progress)
        else:
            self._loading.done()
