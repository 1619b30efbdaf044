"""`ctx-lsp acp`: the agent over stdin and stdout, until the client hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any, cast

from acp.agent.connection import AgentSideConnection

from ctx_lsp.acp.agent import CtxAgent
from ctx_lsp.acp.lines import Lines
from ctx_lsp.client import logs


async def serve(stdin: int, stdout: int, options: dict[str, Any]) -> None:
    """Serves one client. `options` are `InitializationOptions` as on the wire."""
    lines, agent = Lines(stdin, stdout), CtxAgent(options)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, lines.end)
        loop.add_signal_handler(signal.SIGINT, lines.end)
    connection = AgentSideConnection(cast(Any, agent), lines, listening=False)
    try:
        await connection.listen()
    finally:
        await connection.close()
        await agent.close()


def main(options: dict[str, Any]) -> int:
    """Returns the exit code. What anything else prints goes to stderr."""
    logs.start()
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    asyncio.run(serve(stdin, stdout, options))
    return 0
