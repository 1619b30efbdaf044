"""The editor's side of a session whose client speaks no LSP: it has no capabilities, and what it is told is logged.

Knows what the core says to an editor; what of it matters to a client comes with its answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lsprotocol import types

logger = logging.getLogger(__name__)

_LEVELS = {types.MessageType.Error: logging.ERROR, types.MessageType.Warning: logging.WARNING}


class Headless:
    """An `Editor` without windows."""

    def __init__(self) -> None:
        self.cancellations: dict[types.ProgressToken, Callable[[], None]] = {}

    def can(self, capability: str) -> bool:
        return False

    def capability(self, name: str) -> Any:
        return None

    def notify(self, method: str, params: Any) -> None:
        """States and changed lists have no place to be shown."""

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
