"""The editor's side of a session whose client speaks no LSP: it has no capabilities, and messages are logged.

Knows what the core says to an editor; what of it matters to a client comes with its answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lsprotocol import types

from ctx_lsp.protocol import STATUS_DID_CHANGE, Status

logger = logging.getLogger(__name__)

_LEVELS = {types.MessageType.Error: logging.ERROR, types.MessageType.Warning: logging.WARNING}


class Headless:
    """An `Editor` without windows."""

    def __init__(self, on_status: Callable[[Status], None]) -> None:
        self._on_status = on_status
        self.cancellations: dict[types.ProgressToken, Callable[[], None]] = {}

    def can(self, capability: str) -> bool:
        return False

    def capability(self, name: str) -> Any:
        return None

    def notify(self, method: str, params: Any) -> None:
        """Other news than the status has no place to be shown."""
        if method == STATUS_DID_CHANGE:
            self._on_status(params)

    def log(self, message: str, kind: types.MessageType = types.MessageType.Info) -> None:
        logger.log(_LEVELS.get(kind, logging.INFO), "%s", message)

    def show(self, message: str, kind: types.MessageType = types.MessageType.Info) -> None:
        self.log(message, kind)

    def post(self, method: str, params: Any) -> None:
        """Nobody would answer."""

    async def request(self, method: str, params: Any) -> Any:
        raise NotImplementedError(f"{method} is asked only of clients that can answer")

    def cancel_progress(self, token: types.ProgressToken) -> None:
        """No progress is shown."""

    async def watch_files(self) -> None:
        """The client doesn't watch; the workspace does."""
