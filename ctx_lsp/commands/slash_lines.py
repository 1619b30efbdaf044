"""Carrying out a slash command: from its line to what the command behind it answers.

Knows lines and commands' names; what each command does is in the table that it is given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ctx_lsp.commands import markdown, slash
from ctx_lsp.protocol import CommandResult, HelpResult, SlashParams

Table = Mapping[str, Callable[[Any], Awaitable[CommandResult]]]
"""Handlers by command name."""


async def carry_out(params: SlashParams, table: Table) -> CommandResult:
    """Raises SlashError for a line that is none, and what the command raises."""
    call = slash.parse(params.text, params.conversation_id)
    if call.target == slash.HELP:
        usages = slash.usages(call.params)
        return CommandResult(markdown=markdown.usages(usages), data=HelpResult(commands=usages))
    return await table[call.target](call.params)
