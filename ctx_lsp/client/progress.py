"""Work-done progress: bars that the server puts up by itself, and those that a client asked for with a token.

Knows how progress is spoken and what rate is bearable; knows nothing of the work, or of what cancelling it takes.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from lsprotocol import types

from ctx_lsp.client.announcement import Announcement
from ctx_lsp.client.editor import Editor

_REPORT_SECONDS = 0.25
_PATIENCE_SECONDS = 0.4

Report = Callable[[str, float | None], None]
"""Takes a message and a fraction, None where it isn't known."""

WORK_DONE_TOKEN: ContextVar[types.ProgressToken | None] = ContextVar("work_done_token", default=None)
"""The token with which the client asked for the progress of the request that is being answered."""


class WorkDone:
    """One progress, from its beginning to `end`. It moves at most four times a second."""

    def __init__(
        self,
        editor: Editor,
        token: types.ProgressToken,
        title: str,
        cancel: Callable[[], None] | None,
        message: str | None,
        fraction: float | None,
    ) -> None:
        """`cancel` is called when the user cancels; without it the user can't. A progress that begins without a
        fraction never shows one.
        """
        self._editor = editor
        self._token = token
        self._reports: Announcement[types.WorkDoneProgressReport] = Announcement(self._send, _REPORT_SECONDS)
        if cancel is not None:
            editor.cancellations[token] = cancel
        self._send(
            types.WorkDoneProgressBegin(
                title, cancellable=cancel is not None, message=message, percentage=_percentage(fraction)
            )
        )

    def report(self, message: str, fraction: float | None) -> None:
        self._reports.put(types.WorkDoneProgressReport(message=message, percentage=_percentage(fraction)))

    def end(self) -> None:
        self._reports.stop()
        self._editor.cancellations.pop(self._token, None)
        self._send(types.WorkDoneProgressEnd())

    def _send(self, value: Any) -> None:
        self._editor.notify(types.PROGRESS, types.ProgressParams(self._token, value))


class ProgressBar:
    """A progress that the server puts up when work goes on for a while.

    `show` and `done` return at once. Nothing is sent to a client without `window.workDoneProgress`.
    """

    def __init__(self, editor: Editor, title: str, cancel: Callable[[], None] | None = None) -> None:
        self._editor = editor
        self._title = title
        self._cancel = cancel
        self._latest: tuple[str, float | None] | None = None
        self._work: WorkDone | None = None
        self._opening: asyncio.Task[None] | None = None

    def show(self, message: str, fraction: float | None) -> None:
        self._latest = (message, fraction)
        if self._work is not None:
            self._work.report(*self._latest)
        elif self._opening is None and self._editor.can("window.work_done_progress"):
            self._opening = asyncio.create_task(self._open())

    def done(self) -> None:
        self._latest = None
        if self._work is not None:
            self._work.end()
            self._work = None

    async def _open(self) -> None:
        try:
            await asyncio.sleep(_PATIENCE_SECONDS)
            if self._latest is not None:
                await self._begin()
        finally:
            self._opening = None

    async def _begin(self) -> None:
        token = uuid.uuid4().hex
        try:
            await self._editor.request(
                types.WINDOW_WORK_DONE_PROGRESS_CREATE, types.WorkDoneProgressCreateParams(token)
            )
        except Exception:
            return  # the client refused; it can do without
        message, fraction = self._latest or (None, None)
        self._work = WorkDone(self._editor, token, self._title, self._cancel, message, fraction)
        if self._latest is None:  # done while the client was asked
            self.done()


@contextmanager
def request_progress(editor: Editor, title: str) -> Iterator[Report]:
    """The progress of the request that is being answered: under its client's token, else as a bar of the server's own.

    Cancelling it cancels the request, which is then answered so.
    """
    task = asyncio.current_task()
    assert task is not None, "requests are answered in tasks"
    cancel = partial(_cancel, task)
    token = WORK_DONE_TOKEN.get()
    if token is None:
        bar = ProgressBar(editor, title, cancel)
        report, done = bar.show, bar.done
    else:
        work = WorkDone(editor, token, title, cancel, None, 0.0)
        report, done = work.report, work.end
    try:
        yield report
    finally:
        done()


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


def _percentage(fraction: float | None) -> int | None:
    return None if fraction is None else max(0, min(100, int(fraction * 100)))
