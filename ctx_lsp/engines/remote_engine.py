"""An engine at a URL: a ctx-engine of another host, or any server of OpenAI's API. Finds out which of them it is.

Knows how each introduces itself; starts and ends nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from ctx_lsp.engines.client import EngineClient, RemoteEngineError
from ctx_lsp.engines.ctx_engine_client import CtxEngineClient
from ctx_lsp.engines.openai_engine import OpenAIEngine
from ctx_lsp.engines.openai_server import OpenAIServer, http_options
from engine.errors import EngineError

_SECONDS = 10.0
_GATE_CODES = frozenset({"unauthorized", "forbidden_host"})
"""With which a ctx-engine sends strangers away."""


class EngineUnreachableError(EngineError):
    """Nothing answers at `engine.url`."""

    code = "engine_unreachable"
    status = 503


class RemoteEngine:
    """An `EngineSource` for the option `engine.url`."""

    revival = "the next request tries to reach it again"

    def __init__(self, url: str, token: str | None, model: str | None, max_context: int | None) -> None:
        """`url` may end in `/v1`, as OpenAI's clients are given it. `model` and `max_context` are for its servers."""
        self._url = url.rstrip("/").removesuffix("/v1")
        self._token = token
        self.model = model
        self._max_context = max_context

    async def connect(self, on_step: Callable[[str], None]) -> EngineClient:
        on_step(f"connecting to {self._url}")
        if await self._is_ctx_engine():
            return CtxEngineClient(self._url, self._token or "")
        return OpenAIEngine(OpenAIServer(self._url, self._token), self.model, self._max_context)

    async def obituary(self) -> str:
        try:
            await self._look()
        except EngineUnreachableError as error:
            return error.message
        return f"{self._url} broke the connection off"

    async def _is_ctx_engine(self) -> bool:
        """Raises RemoteEngineError where it is one that refuses, EngineUnreachableError where nothing answers."""
        response = await self._look()
        body = _json(response)
        if response.status_code == 200:
            return {"status", "model", "version", "exact_only"} <= body.keys()
        refusal = body.get("error")
        if isinstance(refusal, dict) and refusal.get("code") in _GATE_CODES and "data" in refusal:
            message = f"the ctx-engine at {self._url} refuses: {refusal.get('message')} (engine.token)"
            raise RemoteEngineError(refusal["code"], message)
        return False

    async def _look(self) -> httpx.Response:
        try:
            async with httpx.AsyncClient(timeout=_SECONDS, **http_options(self._url, self._token)) as http:
                return await http.get("/health")
        except httpx.TransportError as error:
            message = f"can't reach {self._url} (engine.url): {error or type(error).__name__}"
            raise EngineUnreachableError(message) from error


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
