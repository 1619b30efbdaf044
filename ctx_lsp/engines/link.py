"""The line from one server to its engine: brought up on demand, watched, and brought up anew after the engine died.

Knows the order of things (find or start, wait for the model, attach, listen); what attaching means and who is told is
given by callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ctx_lsp.engines.client import EngineClient, EngineLostError, Health
from ctx_lsp.engines.source import EngineSource
from ctx_lsp.protocol import ServerState
from engine.errors import EngineError
from engine.types import EngineEvent

logger = logging.getLogger(__name__)

_HEALTH_SECONDS = 0.1


class EngineFailedError(EngineError):
    """The engine process runs but could not load its model; the message has its reason."""

    code = "engine_failed"
    status = 503


@dataclass(frozen=True)
class LinkEvents:
    """Who is told what.

    Attributes:
        on_state: state, message, progress, and the engine's health where it answers.
        on_attach: makes the engine know this server's context; awaited before anybody can use the client.
        on_event: one event of the context's stream.
    """

    on_state: Callable[[ServerState, str, float | None, Health | None], None]
    on_attach: Callable[[EngineClient], Awaitable[None]]
    on_event: Callable[[EngineEvent], None]


class EngineLink:
    """One line, up or down.

    Invariants: `_client` is set only while a task listens to its engine; an engine's end has been told before the
    next one is looked for; at most one task connects.
    """

    def __init__(self, source: EngineSource, context: str, events: LinkEvents) -> None:
        self._source = source
        self._context = context
        self._events = events
        self._client: EngineClient | None = None
        self._connecting: asyncio.Task[EngineClient] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[EngineLostError] | None = None
        self._closed = False

    @property
    def current(self) -> EngineClient | None:
        """The client if the line is up now."""
        return self._client

    async def client(self) -> EngineClient:
        """The line to a ready engine, brought up if need be. Raises EngineError. A caller may be cancelled freely."""
        while self._client is None:
            if self._closed:
                raise EngineLostError("the session has ended")
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(_consume)
            connecting = self._connecting
            try:
                return await asyncio.shield(connecting)
            except asyncio.CancelledError:
                if not connecting.cancelled() or _is_cancelled():
                    raise  # the caller was cancelled; else another engine is taken, and waited for
        return self._client

    async def report_lost(self, client: EngineClient) -> EngineLostError:
        """A request failed because the engine is gone: don't wait for the event stream. Says what happened."""
        if client is self._client:
            self._client = None
            self._ending = asyncio.create_task(self._end(client, self._listening))
        if self._ending is None:
            return EngineLostError("the connection to the engine was lost")
        return await asyncio.shield(self._ending)

    async def switch(self, source: EngineSource) -> bool:
        """Lets go of the engine, which forgets the context, and takes this one from now on; whoever waits for the old
        one waits for the new one instead. True if there was an old one, or an attempt at one.
        """
        self._source = source
        return await self._let_go()

    async def close(self) -> None:
        self._closed = True
        await self._let_go()

    async def _let_go(self) -> bool:
        client, self._client = self._client, None
        tasks = [task for task in (self._connecting, self._listening, self._ending) if task is not None]
        self._connecting = self._listening = self._ending = None
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        if client is not None:
            with contextlib.suppress(EngineError, TimeoutError):
                async with asyncio.timeout(2):
                    await client.drop_context(self._context)
            await client.close()
        return bool(tasks)

    # -- coming up -------------------------------------------------------------------------------------------------

    async def _connect(self) -> EngineClient:
        if self._ending is not None:
            await self._ending
        self._events.on_state("starting", "looking for a running engine", None, None)
        try:
            return await self._try_connect()
        except EngineLostError:
            error = EngineLostError(f"while it was coming up, {await self._source.obituary()}")
            self._events.on_state("failed", error.message, None, None)
            raise error from None
        except Exception as error:
            self._events.on_state("failed", str(error), None, None)
            raise

    async def _try_connect(self) -> EngineClient:
        client = await self._source.connect(lambda step: self._events.on_state("starting", step, None, None))
        listener: asyncio.Task[None] | None = None
        try:
            health = await self._await_ready(client)
            listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._listening = listener = asyncio.create_task(self._listen(client, listening))
            await listening
            self._events.on_state("loading", "bringing the files to the engine", None, health)
            await self._events.on_attach(client)
            if listener.done():
                raise EngineLostError("the engine ended")
        except BaseException:
            if listener is not None:
                listener.cancel()
            await client.close()
            raise
        self._client = client
        self._events.on_state("ready", "ready", None, health)
        return client

    async def _await_ready(self, client: EngineClient) -> Health:
        while True:
            health = await client.health()
            if health.status == "ready":
                return health
            if health.status != "loading":
                raise EngineFailedError(f"the engine could not load {health.model}: {health.message}")
            self._events.on_state("loading", health.message, health.progress, health)
            await asyncio.sleep(_HEALTH_SECONDS)

    # -- being up, going down --------------------------------------------------------------------------------------

    async def _listen(self, client: EngineClient, listening: asyncio.Future[None]) -> None:
        """Follows the event stream to its end, which is the engine's. `listening` is done when the stream is open."""
        try:
            async with client.events(self._context) as events:
                listening.set_result(None)
                async for event in events:
                    self._deliver(event)
        except Exception as error:
            if not listening.done():
                listening.set_exception(error)
                return
            if not isinstance(error, EngineError):
                logger.exception("the event stream could not be followed")
        await self.report_lost(client)

    def _deliver(self, event: EngineEvent) -> None:
        try:
            self._events.on_event(event)
        except Exception:
            logger.exception("an event of the engine could not be handled: %s", event)

    async def _end(self, client: EngineClient, listening: asyncio.Task[None] | None) -> EngineLostError:
        error = EngineLostError(f"{await self._source.obituary()}; {self._source.revival}")
        self._events.on_state("stopped", error.message, None, None)
        if listening is not None:
            listening.cancel()
        await client.close()
        return error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _consume(task: asyncio.Task[Any]) -> None:
    """Looks at a task's outcome so that asyncio doesn't complain that nobody did."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.info("%s", error)
