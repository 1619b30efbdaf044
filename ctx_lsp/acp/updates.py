"""What a session tells its client while it works, as `session/update` notifications in the order in which they came.

Knows the notifications' forms; knows nothing of what brings them about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from acp.helpers import (
    update_agent_message_text,
    update_agent_thought_text,
    update_available_commands,
    update_user_message_text,
)
from acp.interfaces import Client
from acp.schema import AvailableCommand, AvailableCommandInput, UnstructuredCommandInput, UsageUpdate

from ctx_lsp.commands import slash
from ctx_lsp.protocol import ChatResult, ChatTurn, DeltaKind


class Updates:
    """The way to one client. `put` returns at once; `sent` waits until all that was put has been sent."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    def put(self, session_id: str, update: Any) -> None:
        self._queue.put_nowait((session_id, update))

    def put_text(self, session_id: str, text: str, kind: DeltaKind = "answer") -> None:
        make = update_agent_message_text if kind == "answer" else update_agent_thought_text
        self.put(session_id, make(text))

    def put_turns(self, session_id: str, turns: Iterable[ChatTurn]) -> None:
        """A conversation, as if it were held again."""
        for turn in turns:
            self.put(session_id, update_user_message_text(turn.question))
            if turn.reasoning:
                self.put_text(session_id, turn.reasoning, "reasoning")
            self.put_text(session_id, turn.answer)

    def put_usage(self, session_id: str, result: ChatResult, limit: int) -> None:
        used = result.usage.prompt_tokens + result.usage.completion_tokens
        self.put(session_id, UsageUpdate(session_update="usage_update", used=used, size=limit))

    def put_commands(self, session_id: str) -> None:
        self.put(session_id, update_available_commands(_commands()))

    async def sent(self) -> None:
        await self._queue.join()

    def close(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            session_id, update = await self._queue.get()
            with contextlib.suppress(ConnectionError):  # the client has hung up
                await self._client.session_update(session_id=session_id, update=update)
            self._queue.task_done()


def _commands() -> list[AvailableCommand]:
    """The slash commands; clients write the slash themselves."""
    return [_command(command) for command in slash.COMMANDS.values()]


def _command(command: slash.SlashCommand) -> AvailableCommand:
    hint = AvailableCommandInput(root=UnstructuredCommandInput(hint=command.arguments)) if command.arguments else None
    return AvailableCommand(name=command.name.removeprefix("/"), description=command.summary, input=hint)
