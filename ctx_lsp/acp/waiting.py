"""What a turn waits for before its answer begins, shown as a tool call: the protocol has no other form of progress.

Knows how the core's status reads in a line; knows nothing of turns.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from acp.helpers import start_tool_call, update_tool_call

from ctx_lsp.acp.updates import Updates
from ctx_lsp.protocol import Status

_PATIENCE_SECONDS = 0.7


class Waiting:
    """One turn's. Nothing is shown of a wait that is short, or for which there is no word."""

    def __init__(self, updates: Updates, session_id: str, status: Status) -> None:
        self._updates = updates
        self._session_id = session_id
        self._status = status
        self._shown = ""
        self._id: str | None = None
        self._ended = False
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._begin)

    def show(self, status: Status) -> None:
        self._status = status
        if self._timer is None:
            self._show()

    def end(self) -> None:
        """The answer has begun, or there is none. Idempotent."""
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._id is not None:
            self._put(update_tool_call(self._id, status="completed"))

    def _begin(self) -> None:
        self._timer = None
        self._show()

    def _show(self) -> None:
        title = _words(self._status)
        if self._ended or title in ("", self._shown):
            return
        self._shown = title
        if self._id is None:
            self._id = uuid.uuid4().hex
            self._put(start_tool_call(self._id, title, kind="other", status="in_progress"))
        else:
            self._put(update_tool_call(self._id, title=title))

    def _put(self, update: Any) -> None:
        self._updates.put(self._session_id, update)


def _words(status: Status) -> str:
    """Empty where nothing is waited for."""
    if status.state in ("starting", "loading"):
        share = "" if status.progress is None else f" ({status.progress:.0%})"
        return f"{status.message[:1].upper()}{status.message[1:]}{share}"
    if status.populate is not None:
        return f"Reading the context: {status.populate.done:,} of {status.populate.total:,} tokens"
    return ""
