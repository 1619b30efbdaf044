"""`ctx.populate`: begins prefill, and sees it through for a client that wants to watch its progress.

Knows the engine's progress; knows nothing of how it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from ctx_lsp.client.progress import WORK_DONE_TOKEN, Report, request_progress
from ctx_lsp.engines.client import EngineClient
from ctx_lsp.protocol import Plan, PopulateState
from ctx_lsp.session import Session
from engine.errors import EngineError


async def populate(session: Session, client: EngineClient, refs: Sequence[str] | None) -> Plan:
    """What there was to compute. Answers at once, or where the client gave a token for progress when it has ended."""
    if WORK_DONE_TOKEN.get() is None:
        return await session.context.populate(client, refs)
    with request_progress(session.editor, "Reading files") as report:
        return await _see_through(session, client, refs, report)


async def _see_through(session: Session, client: EngineClient, refs: Sequence[str] | None, report: Report) -> Plan:
    """Stops the prefill if it is cancelled."""
    ended = asyncio.Event()

    def watch(state: PopulateState | None) -> None:
        if state is None:
            ended.set()
        else:
            report(f"{state.done:,} of {state.total:,} tokens", state.done / state.total)

    try:
        with session.status.populate_watched(watch):
            plan = await session.context.populate(client, refs)
            if plan.prefill:
                await ended.wait()
            return plan
    except asyncio.CancelledError:
        with contextlib.suppress(EngineError):
            await session.context.stop_populating(client)
        raise
