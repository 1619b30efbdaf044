"""Puts texts into the engine's context, and keeps newcomers that don't fit from making every question fail.

Knows tokens and limits; knows nothing of documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ctx_lsp.engine_client import EngineClient, RemoteEngineError
from ctx_lsp.protocol import ChunkInfo
from ctx_lsp.remote_context import RemoteContext

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_MOST_RESERVED = 1024


def encodable(text: str) -> str:
    """The text with halves of surrogate pairs, which have no UTF-8 form, replaced by U+FFFD."""
    return _LONE_SURROGATES.sub("\ufffd", text)


def reserved_tokens(limit: int) -> int:
    """Kept free of files, for the question and its answer."""
    return min(_MOST_RESERVED, limit // 8)


class EngineShelf:
    """One flush's way into the context.

    Attributes:
        refused: sources the engine would not take, or that were made inactive because they don't fit, and why.
    """

    def __init__(self, context: RemoteContext, client: EngineClient, on_refusal: Callable[[str, str], None]) -> None:
        self._context = context
        self._client = client
        self._on_refusal = on_refusal
        self._active_tokens = context.state.active_tokens
        self._seen: dict[str, ChunkInfo] = {chunk.hash: chunk for chunk in context.state.chunks}
        self._surplus: list[str] = []
        self.refused: dict[str, str] = {}

    async def put(self, source: str, text: str) -> None:
        """A text that was here before stays active however it has grown: the user is working on it.

        What the engine refuses leaves the context rather than stay there with an old text.
        """
        before, is_new = self._context.find_source(source), source not in self._context.sources
        try:
            info = await self._context.put(self._client, source, encodable(text))
        except RemoteEngineError as error:
            self._refuse(source, error.message)
            return await self.remove(source)
        is_known = info.hash in self._seen
        self._seen[info.hash] = info
        if not info.active or is_known:
            return
        reason = self._why_too_much(info) if is_new else None
        if reason is None:
            self._active_tokens += info.tokens - (before.tokens if before is not None and before.active else 0)
            return
        self._surplus.append(info.hash)
        self._refuse(source, reason)

    async def settle(self) -> None:
        """Makes inactive what turned out not to fit; to be called when everything was put."""
        surplus, self._surplus = self._surplus, []
        if surplus:
            await self._context.set_active(self._client, surplus, False)

    async def remove(self, source: str) -> None:
        await self._context.remove_source(self._client, source)

    def _refuse(self, source: str, reason: str) -> None:
        self.refused[source] = reason
        self._on_refusal(source, reason)

    def _why_too_much(self, info: ChunkInfo) -> str | None:
        limit = self._context.state.limit
        if self._active_tokens + info.tokens > limit - reserved_tokens(limit):
            taken = f"{self._active_tokens:,} of {limit:,} are taken by active chunks"
            return f"no room for its {info.tokens:,} tokens: {taken}"
        return None
