"""Waits for the end of the process that started this one: an editor that was killed can't say exit."""

from __future__ import annotations

import asyncio

from engine.serve.runtime_file import pid_alive

_POLL_SECONDS = 1.0


async def gone(pid: int) -> None:
    """Returns when there is no such process any more.

    Never where there was none to begin with: a client in a container tells an id that means nothing here.
    """
    if not pid_alive(pid):
        await asyncio.Event().wait()
    while pid_alive(pid):
        await asyncio.sleep(_POLL_SECONDS)
