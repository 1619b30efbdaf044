"""The server's status: one value, its changes told to the editor at a bearable rate, long work shown as progress bars.

Knows the states and how each is shown; knows nothing of what brings them about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import attrs

from ctx_lsp import protocol
from ctx_lsp.editor import Editor, ProgressBar
from ctx_lsp.protocol import ChunksDidChange, PopulatePhase, PopulateState, Status

T = TypeVar("T")
_QUIET_SECONDS = 0.1


class Announcement(Generic[T]):
    """Sends the latest value of something: at once after a pause, else when the pause is over."""

    def __init__(self, send: Callable[[T], None], quiet: float = _QUIET_SECONDS) -> None:
        self._send = send
        self._quiet = quiet
        self._waiting: list[T] = []
        self._timer: asyncio.TimerHandle | None = None

    def put(self, value: T) -> None:
        self._waiting = [value]
        if self._timer is None:
            self._flush()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        self._timer = None
        if self._waiting:
            self._send(self._waiting.pop())
            self._timer = asyncio.get_running_loop().call_later(self._quiet, self._flush)


class StatusBoard:
    """Holds the current status. `update` changes fields; whoever listens hears of each state they end up in."""

    def __init__(self, editor: Editor, model: str) -> None:
        self._status = Status(state="starting", message="not started yet", model=model)
        self._announcement: Announcement[Status] = Announcement(partial(editor.notify, protocol.STATUS_DID_CHANGE))
        self._chunks: Announcement[ChunksDidChange] = Announcement(partial(editor.notify, protocol.CHUNKS_DID_CHANGE))
        self._loading = ProgressBar(editor, "Starting the engine")
        self._bars: dict[PopulatePhase, ProgressBar] = {
            "populate": ProgressBar(editor, "Reading files"),
            "refine": ProgressBar(editor, "Refining"),
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
        for phase, bar in self._bars.items():
            if busy is not None and busy.phase == phase:
                bar.show(f"{busy.done:,} of {busy.total:,} tokens", busy.done / busy.total)
            else:
                bar.done()

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
