"""Shows on stderr how far something long has come: a bar that vanishes in a terminal, now and then a line elsewhere.

Knows `Step` (a message and a fraction), not what is being done.
"""

from __future__ import annotations

import asyncio
import re
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ctx_lsp.terminal.session import Step

# What is over sooner than this (seconds) is not worth a bar that flashes up.
PATIENCE = 0.25


class ProgressView:
    """Shows steps between entering and leaving (or `stop`, which may come earlier and twice)."""

    def __init__(self, console: Console, message: str) -> None:
        self._console = console
        self._step = Step(message, None)
        self._bar: _Bar | None = None
        self._lines = _Lines(console)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._show_bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def show(self, step: Step) -> None:
        self._step = step
        if self._bar:
            self._bar.show(step)
        elif not self._console.is_terminal:
            self._lines.show(step)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._bar:
            self._bar.stop()
        self._timer = self._bar = None

    def _show_bar(self) -> None:
        self._bar = _Bar(self._console)
        self._bar.show(self._step)


class _Bar:
    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(style="cyan"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=8)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def show(self, step: Step) -> None:
        total = None if step.fraction is None else 1.0
        self._progress.update(self._task, description=step.message, total=total, completed=step.fraction or 0.0)

    def stop(self) -> None:
        self._progress.stop()


class _Lines:
    """For logs: a line when another thing begins, and at every tenth of it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[str, int] | None = None

    def show(self, step: Step) -> None:
        key = re.sub(r"[\d.,]+", "#", step.message), int((step.fraction or 0.0) * 10)
        if key == self._last:
            return
        self._last = key
        percent = "" if step.fraction is None else f" ({step.fraction:.0%})"
        self._console.print(step.message + percent, markup=False, highlight=False, soft_wrap=True)
