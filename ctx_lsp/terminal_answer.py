"""Writes an answer to stdout as it comes: styled in a terminal, as it is elsewhere; never redrawn.

Knows `ProgressView` only as something to take away before the first word.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

from ctx_lsp.terminal_progress import ProgressView
from ctx_lsp.terminal_render import MarkdownStream, is_styled


class AnswerWriter:
    """`write` each piece, then `finish`.

    Attributes:
        broken: nobody reads stdout any more; nothing is written then.
        on_broken: called once when that is noticed.
    """

    def __init__(self, view: ProgressView, on_broken: Callable[[], object] = lambda: None) -> None:
        self._view = view
        self._markdown = MarkdownStream(shutil.get_terminal_size().columns) if is_styled(sys.stdout) else None
        self._last = "\n"
        self.broken = False
        self.on_broken = on_broken

    def write(self, text: str) -> None:
        if sys.stdout.isatty():
            self._view.stop()
        self._print(self._markdown.feed(text) if self._markdown else text)
        self._last = text[-1:] or self._last

    def finish(self) -> None:
        """Whatever was held back, and a line break if the answer ended without one."""
        self._view.stop()
        self._print(self._markdown.finish() if self._markdown else "" if self._last == "\n" else "\n")

    def _print(self, text: str) -> None:
        if self.broken:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            self.broken = True
            self.on_broken()
