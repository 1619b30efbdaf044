"""The client's configuration, section `ctx`: asked for where the client can be asked, else taken from what it pushes.

Knows LSP's three ways to say it; what the values mean is `settings`' business, what a change does its caller's.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from lsprotocol import types

from ctx_lsp.client.editor import Editor
from ctx_lsp.settings.settings import Change, Settings

logger = logging.getLogger(__name__)

SECTION = "ctx"
_PATIENCE_SECONDS = 5.0


class Configuration:
    """Keeps settings equal to what the client says. Changes are applied one after the other, the last one wins.

    Invariants: `_pushed` is what the client pushed last; `_settled` is set unless the client is being asked, or what it
    said is being applied.
    """

    def __init__(self, editor: Editor, settings: Settings, apply: Callable[[Change], Awaitable[None]]) -> None:
        self._editor = editor
        self._settings = settings
        self._apply = apply
        self._pushed: Any = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    async def settled(self) -> None:
        """Waits until what the client has said so far counts: nothing is done with options that it has changed."""
        await self._settled.wait()

    def did_change(self, params: types.DidChangeConfigurationParams) -> None:
        """The client has new settings, and sends them where it is one that can't be asked."""
        self._pushed = params.settings
        self._expect()

    def begin(self) -> None:
        """The session starts; `follow` is about to run."""
        if self._can_ask():
            self._expect()

    async def follow(self) -> None:
        """Applies what the client has to say from now on. Runs until it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._update()
            if not self._changed.is_set():
                self._settled.set()

    async def register(self) -> None:
        """Asks to be told of changes, where that has to be asked for."""
        if not self._editor.can("workspace.did_change_configuration.dynamic_registration"):
            return
        registration = types.Registration(
            id=uuid.uuid4().hex,
            method=types.WORKSPACE_DID_CHANGE_CONFIGURATION,
            register_options=types.DidChangeConfigurationRegistrationOptions(section=SECTION),
        )
        try:
            await self._editor.request(types.CLIENT_REGISTER_CAPABILITY, types.RegistrationParams([registration]))
        except Exception as error:
            logger.info("the client does not tell of changed settings: %s", error)

    def _expect(self) -> None:
        self._settled.clear()
        self._changed.set()

    def _can_ask(self) -> bool:
        return self._editor.can("workspace.configuration")

    async def _update(self) -> None:
        """A client that lets its answer wait is not waited for: the answer changes what has begun by then."""
        timer = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._settled.set)
        try:
            configuration = await self._ask() if self._can_ask() else _section(self._pushed)
        except Exception as error:
            return self._editor.log(f"the client did not tell its settings: {error}", types.MessageType.Warning)
        finally:
            timer.cancel()
        await self._take(configuration)

    async def _ask(self) -> Any:
        params = types.ConfigurationParams([types.ConfigurationItem(section=SECTION)])
        answer = await self._editor.request(types.WORKSPACE_CONFIGURATION, params)
        return answer[0] if isinstance(answer, list) and answer else None

    async def _take(self, configuration: Any) -> None:
        change = self._settings.configure(configuration)
        for problem in change.problems:
            self._editor.show(f"{SECTION}.{problem}. The last good value stays.", types.MessageType.Warning)
        if change.unknown:
            self._editor.log(f"settings of {SECTION} that the server doesn't know: {', '.join(change.unknown)}")
        if change.before != change.after:
            try:
                await self._apply(change)
            except Exception:
                logger.exception("new settings could not be applied")


def _section(pushed: Any) -> Any:
    """What a client pushes has all its sections, or is null."""
    return pushed.get(SECTION) if isinstance(pushed, dict) else None
