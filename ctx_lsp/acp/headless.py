"""The `Client` of a session whose editor speaks no LSP: it has no capabilities, and its messages go to the log.

Of what the core tells a client by itself, the status alone matters here; all else comes with answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lsprotocol import types

from ctx_lsp.protocol import STATUS_DID_CHANGE, Status

logger = logging.getLogger(__name__)


class Headless:
    """Gives the status to whom it concerns."""

    def __init__(self, on_status: Callable[[Status], None]) -> None:
        self._on_status = on_status

    def capability(self, name: str, default: Any) -> Any:
        return default

    def notify(self, method: str, params: Any) -> None:
        if method == STATUS_DID_CHANGE:
            self._on_status(params)
        elif method == types.WINDOW_SHOW_MESSAGE:
            logger.warning("%s", params.message)

    def post(self, method: str, params: Any) -> None:
        """Nobody would take it."""

    async def request(self, method: str, params: Any) -> Any:
        raise NotImplementedError(f"{method} is asked only of clients that can answer")
