"""The state of one server: its options, documents, context, engine and status, and how they work together.

Knows what has to happen before a question can be asked; how questions, commands and the wire look is elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lsprotocol import types

from ctx_lsp.client import logs
from ctx_lsp.client.editor import Editor
from ctx_lsp.client.status import StatusBoard
from ctx_lsp.engines.client import EngineClient, EngineLostError, Health
from ctx_lsp.engines.link import EngineLink, LinkEvents
from ctx_lsp.engines.source import engine_source
from ctx_lsp.engines.usage import Usage
from ctx_lsp.protocol import ChunksResult, InitializationOptions, LeftOut, PopulateState, ServerState
from ctx_lsp.settings.configuration import Configuration
from ctx_lsp.settings.reconfigure import reconfigure
from ctx_lsp.settings.settings import Settings
from ctx_lsp.workspace.admission import Admission
from ctx_lsp.workspace.documents import Documents
from ctx_lsp.workspace.ledger import Ledger
from ctx_lsp.workspace.refs import Refs
from ctx_lsp.workspace.remote_context import RemoteContext
from ctx_lsp.workspace.shelf import EngineShelf
from ctx_lsp.workspace.sources import SourceNames
from ctx_lsp.workspace.workspace import Workspace
from engine.errors import EngineError
from engine.types import ChunksChanged, EngineEvent, PopulateFailed, PopulateProgress

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 0.2


class Session:
    """Everything a server knows, from `initialize` to the end of the process.

    Invariant: `_tasks` holds every background task that was started here and has not ended.

    Attributes:
        chunk_listeners: told of the chunks whenever something about them has changed.
    """

    def __init__(self, editor: Editor, initialization_options: Any, folders: list[Path], encoding: str) -> None:
        """Raises WireError for options that can't be meant."""
        self.settings = Settings(initialization_options)
        logs.set_level(self.options.log_level)
        self.configuration = Configuration(editor, self.settings, partial(reconfigure, self))
        self.editor = editor
        self.encoding = encoding
        self.sources = SourceNames(folders)
        ledger = Ledger(self._on_left_out)
        admission = Admission(self.sources.folders, self.options.files)
        self.documents = Documents(
            self.sources, ledger, admission, self.options.documents, self.options.debounce_ms / 1000, encoding
        )
        source = engine_source(self.options)
        self.status = StatusBoard(editor, source.model, lambda: self._spawn(self._stop_populating()))
        self.context = RemoteContext(
            _context_id(folders),
            self.options.instructions,
            self.options.order,
            ledger,
            Refs(self.sources).resolve,
            self._on_chunks,
        )
        self.workspace = Workspace(self)
        events = LinkEvents(self._on_state, self._on_attach, self._on_event)
        self.link = EngineLink(source, self.context.id, events)
        self.chunk_listeners: list[Callable[[ChunksResult], None]] = []
        self._usage = Usage()
        self._stale = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._complaint: str | None = None
        self._told = False

    def start(self) -> None:
        """Begins what goes on by itself: bringing up the engine, following documents and chunks."""
        for warning in self.settings.warnings:
            self.editor.log(warning, types.MessageType.Warning)
        self.configuration.begin()
        self._spawn(self.configuration.follow())
        self._spawn(self.configuration.register())
        self._spawn(self._bring_up())
        self._spawn(self._follow_documents())
        self._spawn(self._follow_chunks())
        self._spawn(self.workspace.autoload.follow())
        self._spawn(self.workspace.follow_disk())

    async def close(self) -> None:
        """Lets go of the engine, which forgets this context. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self.documents.cancel_timers()
        self.workspace.autoload.stop()
        self.status.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.link.close()

    @property
    def options(self) -> InitializationOptions:
        """As they are now."""
        return self.settings.options

    # -- what requests need ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[EngineClient]:
        """A ready engine that has this context, waited for if need be. Raises EngineError; says so if it gets lost."""
        if not self._usage.is_mine:  # who uses the engine already must not wait for one that waits for its end
            await self.configuration.settled()
        client = await self.link.client()
        with self._usage.begun():
            try:
                yield client
            except EngineLostError:
                raise await self.link.report_lost(client) from None

    async def change_engine(self) -> None:
        """Goes on with the engine that the options name now, and the same context, once no request uses the old one."""
        await self._last_look()
        source = engine_source(self.options)
        self.status.update(model=source.model)
        if await self.link.switch(source):
            self._spawn(self._bring_up())

    async def _last_look(self) -> None:
        """Waits for a moment in which no request uses the engine and all that they left there is known."""
        seen = -1
        while seen != self._usage.total:
            await self._usage.ended()
            seen = self._usage.total
            if self.link.current is not None:
                with contextlib.suppress(EngineError):
                    await self.context.refresh(self.link.current)

    async def renew_context(self) -> None:
        """Tells the engine, if it is there, of changed instructions and order."""
        client = self.link.current
        if client is None:
            return  # attaching tells it
        try:
            await self.context.attach(client)
            await self.warm(client)
        except EngineLostError:
            await self.link.report_lost(client)

    async def flush(self, client: EngineClient) -> None:
        """Brings the latest text of every document to the engine."""
        await self._flush(client, only_rested=False)

    async def warm(self, client: EngineClient) -> None:
        """Asks for the active composition's KV ahead of the next question."""
        try:
            await self.context.populate(client)
            self._complain(None)
        except EngineLostError:
            raise
        except EngineError as error:
            self._complain(error.message)

    async def _stop_populating(self) -> None:
        """Until the next change, or the user, begins it again."""
        client = self.link.current
        if client is not None:
            with contextlib.suppress(EngineError):  # an engine that is gone has stopped as well
                await self.context.stop_populating(client)

    def _complain(self, message: str | None) -> None:
        """What keeps a ready engine from prefilling ahead, shown as long as it does."""
        self._complaint = message
        if self.status.status.state == "ready":
            self.status.update(message=message or "ready")

    # -- background ------------------------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up(self) -> None:
        try:
            await self.configuration.settled()
            await self.link.client()
        except EngineError as error:
            self.editor.log(error.message, types.MessageType.Error)

    async def _follow_documents(self) -> None:
        """A dead engine isn't started for an edit, only for a request: if it dies of the text, it would die forever."""
        while True:
            await self.documents.rested.wait()
            self.documents.rested.clear()
            client = self.link.current
            if client is None:
                continue  # attaching to the next engine brings everything
            try:
                await self._flush(client, only_rested=True)
                await self.warm(client)
            except EngineLostError:
                await self.link.report_lost(client)
            except EngineError as error:
                self.editor.log(error.message, types.MessageType.Warning)

    async def _follow_chunks(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            client = self.link.current
            if client is not None:
                try:
                    await self.context.refresh(client)
                except EngineError as error:
                    logger.info("the chunk list could not be read: %s", error)
            await asyncio.sleep(_REFRESH_SECONDS)

    async def _flush(self, client: EngineClient, *, only_rested: bool) -> None:
        await self.documents.flush(EngineShelf(self.context, client), only_rested=only_rested)
        self.context.restate()

    # -- what the engine says --------------------------------------------------------------------------------------

    def _on_state(self, state: ServerState, message: str, progress: float | None, health: Health | None) -> None:
        if state != self.status.status.state and health is not None:
            logger.info("engine %s: %s", state, message)
        changes: dict[str, Any] = {"state": state, "message": message, "progress": progress}
        if health is not None:
            changes |= {"model": health.model, "device": health.device}
        self.status.update(**changes)
        if state == "ready":
            self.workspace.autoload.wake()
            self._tell_limitation(health.exact_only if health is not None else None)
        else:
            self.status.show_populate(None)
        if state == "stopped" and not self._closing:
            self.editor.log(message, types.MessageType.Warning)

    async def _on_attach(self, client: EngineClient) -> None:
        await self.context.attach(client)
        self.documents.forget_shelf()
        await self._flush(client, only_rested=False)
        await self.warm(client)

    def _on_event(self, event: EngineEvent) -> None:
        match event:
            case ChunksChanged():
                self._stale.set()
            case PopulateProgress():
                self.status.show_populate(PopulateState(done=event.done, total=event.total, phase=event.phase))
            case PopulateFailed():
                self.status.show_populate(None)
                self._complain(event.message)

    def _on_chunks(self, state: ChunksResult) -> None:
        self.status.chunks_changed(state.active_tokens, state.limit)
        for listener in self.chunk_listeners:
            listener(state)

    def _tell_limitation(self, limitation: str | None) -> None:
        """What this model can't do: shown once, and as the status until there is other news."""
        self._complain(self._complaint or limitation)
        if limitation is not None and not self._told:
            self._told = True
            self.editor.show(limitation, types.MessageType.Warning)

    def _on_left_out(self, item: LeftOut) -> None:
        self.editor.log(f"{item.source} is not active in the context: {item.reason}", types.MessageType.Warning)


def _context_id(folders: list[Path]) -> str:
    name = folders[0].name if folders else "no-folder"
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name) or 'workspace'}-{uuid.uuid4().hex}"
