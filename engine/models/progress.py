"""How long work on model files tells how far it has come. Knows nothing of who shows it.

A report is a message for people and a fraction from 0 to 1 of that step, or None while it can't be known. Reports may
come from a helper thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str, float | None], None]


def silent(message: str, fraction: float | None) -> None:
    """The report nobody reads."""


@contextmanager
def watch_size(folder: Path, on_bytes: Callable[[int], None], interval: float = 0.2) -> Iterator[None]:
    """While the block runs, `on_bytes` gets the bytes allocated under `folder`, every `interval` seconds.

    Watching the disk works alike for every downloader, whatever it prints or lets itself be asked.
    """
    done = threading.Event()

    def poll() -> None:
        while not done.wait(interval):
            on_bytes(bytes_under(folder))

    thread = threading.Thread(target=poll, name="ctx-download-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def bytes_under(folder: Path) -> int:
    """Bytes on disk of all files below `folder`; files that vanish meanwhile count as nothing."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                stat = os.stat(os.path.join(parent, name))
            except OSError:
                continue
            # A downloader that writes pieces out of order leaves holes: count what is there.
            total += min(stat.st_size, stat.st_blocks * 512)
    return total
