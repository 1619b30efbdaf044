"""The `Client` of an editor that speaks LSP. Knows pygls; knows nothing of what is said."""

from __future__ import annotations

from typing import Any

from pygls.capabilities import get_capability
from pygls.lsp.server import LanguageServer


class LspClient:
    """The way to the client of one language server."""

    def __init__(self, server: LanguageServer) -> None:
        self._server = server

    def capability(self, name: str, default: Any) -> Any:
        return get_capability(self._server.client_capabilities, name, default)

    def notify(self, method: str, params: Any) -> None:
        self._server.protocol.notify(method, params)

    def post(self, method: str, params: Any) -> None:
        self._server.protocol.send_request(method, params)

    async def request(self, method: str, params: Any) -> Any:
        return await self._server.protocol.send_request_async(method, params)
