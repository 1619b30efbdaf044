"""Writes an answer to stdout as it comes, and what the model thinks before it to where that may be seen: styled in a
terminal, as it is elsewhere; never redrawn.

Knows `ProgressView` only as something to take away before the first word.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import TextIO

from ctx_lsp.protocol import DeltaKind
from ctx_lsp.terminal.progress import ProgressView
from ctx_lsp.terminal.render import DIM, MarkdownStream, ThoughtStream, is_styled


class AnswerWriter:
    """`write` each piece, then `finish`.

    Attributes:
        broken: nobody reads stdout any more; nothing is written then.
        on_broken: called once when that is noticed.
    """

    def __init__(
        self, view: ProgressView, *, thoughts: TextIO | None, on_broken: Callable[[], object] = lambda: None
    ) -> None:
        """`thoughts`: where they go; None for nowhere."""
        self._view = view
        width = shutil.get_terminal_size().columns
        self._markdown = MarkdownStream(width) if is_styled(sys.stdout) else None
        self._thoughts = thoughts
        self._thinking = ThoughtStream(width, DIM if thoughts is not None and is_styled(thoughts) else "")
        self._last = "\n"
        self.broken = False
        self.on_broken = on_broken

    def write(self, text: str, kind: DeltaKind = "answer") -> None:
        if kind == "reasoning":
            self._think(self._thinking.feed(text))
            return
        self._think(self._thinking.finish())
        if sys.stdout.isatty():
            self._view.stop()
        self._print(self._markdown.feed(text) if self._markdown else text)
        self._last = text[-1:] or self._last

    def finish(self) -> None:
        """Whatever was held back, and a line break if the answer ended without one."""
        self._view.stop()
        self._think(self._thinking.finish())
        self._print(self._markdown.finish() if self._markdown else "" if self._last == "\n" else "\n")

    def _think(self, text: str) -> None:
        if text and self._thoughts is not None:
            self._view.stop()
            self._thoughts.write(text)
            self._thoughts.flush()

    def _print(self, text: str) -> None:
        if self.broken:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            self.broken = True
            self.on_broken()
