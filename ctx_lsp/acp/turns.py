"""Answering prompts: the turns of sessions, what they send while they run, and their cancellation.

Knows the core's chats and commands; knows nothing of how a session came about.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from acp.schema import StopReason

from ctx_lsp.acp import blocks
from ctx_lsp.acp.resources import attach
from ctx_lsp.acp.updates import Updates
from ctx_lsp.acp.waiting import Waiting
from ctx_lsp.acp.workspaces import Workspace
from ctx_lsp.commands import slash
from ctx_lsp.commands.slash import SlashError
from ctx_lsp.commands.slash_lines import carry_out
from ctx_lsp.protocol import ChatDelta, ChatParams, Fidelity, SlashParams

ReadBuffer = Callable[[str, Path], Awaitable[str | None]]
"""Given a session's id and a file: its text as the client has it, None where it has none to give."""


@dataclass
class AcpSession:
    """One conversation about a workspace. `running` holds the turns that can be cancelled."""

    id: str
    workspace: Workspace
    fidelity: Fidelity
    running: set[asyncio.Task[Any]] = field(default_factory=set)


@dataclass(frozen=True)
class Turn:
    """One that is being answered."""

    session_id: str
    waiting: Waiting


class Turns:
    """Invariant: `_open` has every turn that the core is answering, by its id."""

    def __init__(self, updates: Updates, read_buffer: ReadBuffer) -> None:
        self._updates = updates
        self._read_buffer = read_buffer
        self._open: dict[str, Turn] = {}

    async def run(self, session: AcpSession, content: blocks.Prompt) -> StopReason:
        """Ends when all that it had to say was sent. Raises the core's errors."""
        is_line = content.text.partition(" ")[0] in slash.COMMANDS
        work = self._run_line(session, content.text) if is_line else self._ask(session, content)
        try:
            return await _until_cancelled(session, work)
        finally:
            await self._updates.sent()

    def on_delta(self, delta: ChatDelta) -> None:
        turn = self._open[delta.turn_id]
        turn.waiting.end()
        self._updates.put_text(turn.session_id, delta.text, delta.kind)

    async def _ask(self, session: AcpSession, content: blocks.Prompt) -> StopReason:
        core = session.workspace.session
        attachments = await attach(core, content.resources, partial(self._read_buffer, session.id))
        params = ChatParams(
            turn_id=uuid.uuid4().hex, text=content.text, conversation_id=session.id, fidelity=session.fidelity
        )
        with self._turn(session, params.turn_id):
            result = await session.workspace.chats.ask(params, attachments)
        self._updates.put_usage(session.id, result, core.context.state.limit)
        return "max_tokens" if result.stop_reason == "length" else "end_turn"

    async def _run_line(self, session: AcpSession, line: str) -> StopReason:
        """A line that makes no sense is answered with how to write it."""
        try:
            params = SlashParams(text=line, conversation_id=session.id)
            text = (await carry_out(params, session.workspace.commands())).markdown
        except SlashError as error:
            text = error.message
        self._updates.put_text(session.id, text)
        return "end_turn"

    @contextmanager
    def _turn(self, session: AcpSession, turn_id: str) -> Iterator[None]:
        """Shows what is waited for until the first delta of the turn."""
        waiting = Waiting(self._updates, session.id, session.workspace.session.status.status)
        session.workspace.waiting.add(waiting)
        self._open[turn_id] = Turn(session.id, waiting)
        try:
            yield
        finally:
            waiting.end()
            session.workspace.waiting.discard(waiting)
            del self._open[turn_id]


async def _until_cancelled(session: AcpSession, work: Coroutine[Any, Any, StopReason]) -> StopReason:
    """Its outcome, or ``cancelled`` where the client cancelled it; that the connection ends goes on as what it is."""
    task = asyncio.create_task(work)
    session.running.add(task)
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        return "cancelled"
    finally:
        session.running.discard(task)
