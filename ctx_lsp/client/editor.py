"""What the server says to the editor of its own accord: notifications, log lines, questions, registrations.

Knows the client's capabilities and asks for nothing that it lacks.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from lsprotocol import types

from ctx_lsp.client import logs

logger = logging.getLogger(__name__)

_LEVELS = {kind: level for level, kind in logs.KINDS.items()}


class Client(Protocol):
    """Takes LSP's messages, whatever it makes of them."""

    def capability(self, name: str, default: Any) -> Any:
        """What it says of a capability, by LSP's names in snake_case; the default where it says nothing."""
        ...

    def notify(self, method: str, params: Any) -> None: ...

    def post(self, method: str, params: Any) -> None:
        """A request whose answer tells nothing."""
        ...

    async def request(self, method: str, params: Any) -> Any: ...


class Editor:
    """The client's side of one session.

    Attributes:
        cancellations: for each progress that the user may cancel, by its token, what that does.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.cancellations: dict[types.ProgressToken, Callable[[], None]] = {}

    def can(self, capability: str) -> bool:
        """Whether the client has a capability, e.g. ``window.work_done_progress``."""
        return bool(self.capability(capability, False))

    def capability(self, capability: str, default: Any = None) -> Any:
        """What the client says of a capability, e.g. the values of an enumeration that it knows."""
        return self._client.capability(capability, default)

    def notify(self, method: str, params: Any) -> None:
        self._client.notify(method, params)

    def log(self, message: str, kind: types.MessageType = types.MessageType.Info) -> None:
        """For whoever reads logs: the client's, and the server's own."""
        logger.log(_LEVELS[kind], message)

    def show(self, message: str, kind: types.MessageType = types.MessageType.Info) -> None:
        """Where the user looks; for what must not be missed."""
        self.notify(types.WINDOW_SHOW_MESSAGE, types.ShowMessageParams(kind, message))

    def post(self, method: str, params: Any) -> None:
        """A request whose answer tells nothing."""
        self._client.post(method, params)

    async def request(self, method: str, params: Any) -> Any:
        return await self._client.request(method, params)

    def cancel_progress(self, token: types.ProgressToken) -> None:
        """The user cancels a progress, which may have ended by now."""
        if (cancel := self.cancellations.get(token)) is not None:
            cancel()

    async def watch_files(self) -> bool:
        """Asks to be told of changes on disk; False where the client can't, or won't."""
        if not self.can("workspace.did_change_watched_files.dynamic_registration"):
            return False
        watcher = types.FileSystemWatcher(glob_pattern="**/*")
        registration = types.Registration(
            id=uuid.uuid4().hex,
            method=types.WORKSPACE_DID_CHANGE_WATCHED_FILES,
            register_options=types.DidChangeWatchedFilesRegistrationOptions(watchers=[watcher]),
        )
        try:
            await self.request(types.CLIENT_REGISTER_CAPABILITY, types.RegistrationParams([registration]))
        except Exception:
            return False
        return True
