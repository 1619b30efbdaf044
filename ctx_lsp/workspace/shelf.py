"""Puts texts into the engine's context; what the engine refuses is written down and does no harm.

Knows chunks; knows nothing of documents, or of whether there is room.
"""

from __future__ import annotations

import re

from ctx_lsp.engines.client import EngineClient, RemoteEngineError
from ctx_lsp.workspace.remote_context import RemoteContext

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """The text with halves of surrogate pairs, which have no UTF-8 form, replaced by U+FFFD."""
    return _LONE_SURROGATES.sub("\ufffd", text)


class EngineShelf:
    """One flush's way into the context."""

    def __init__(self, context: RemoteContext, client: EngineClient) -> None:
        self._context = context
        self._client = client

    async def put(self, source: str, text: str) -> None:
        """What the engine refuses leaves the context rather than stay there with an old text."""
        try:
            await self._context.put(self._client, source, encodable(text))
        except RemoteEngineError as error:
            self._context.ledger.leave_out(source, error.message, error.data.get("needed"))
            await self.remove(source)
        else:
            self._context.ledger.admit(source)

    async def settle(self) -> None:
        await self._context.refresh(self._client)

    async def remove(self, source: str) -> None:
        await self._context.remove_source(self._client, source)
