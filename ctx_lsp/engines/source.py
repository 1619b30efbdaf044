"""Where this server's engine comes from: a process of this user's, or a URL.

Knows which options decide; how an engine is found, started or recognised is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ctx_lsp.engines.client import EngineClient
from ctx_lsp.engines.ctx_engine_client import CtxEngineClient
from ctx_lsp.engines.process import EngineProcess
from ctx_lsp.protocol import InitializationOptions
from ctx_lsp.settings.options import engine_config
from engine.config import EngineConfig


class EngineSource(Protocol):
    """The way to one engine. `connect` may be called again whenever the engine has gone.

    Attributes:
        model: which it will have, as far as that is known before.
        revival: what becomes of an engine that has gone, for the end of a sentence.
    """

    model: str | None
    revival: str

    async def connect(self, on_step: Callable[[str], None]) -> EngineClient:
        """A client of an engine that answers. Raises EngineError."""
        ...

    async def obituary(self) -> str:
        """How the engine that was connected last has ended, as far as can be known from here."""
        ...


class LocalEngine:
    """A process of this user's, found or started."""

    revival = "the next request starts it again"

    def __init__(self, config: EngineConfig, idle_timeout: float | None) -> None:
        self._process = EngineProcess(config, idle_timeout)
        self.model: str | None = config.model

    async def connect(self, on_step: Callable[[str], None]) -> EngineClient:
        info = await self._process.find_or_start(on_step)
        on_step(f"waiting for the engine to answer (process {info.pid})")
        return CtxEngineClient(info.url, info.token)

    async def obituary(self) -> str:
        return await self._process.obituary()


def engine_source(options: InitializationOptions) -> EngineSource:
    """What the options name: a URL, else an engine of this machine."""
    if options.engine.url is None:
        return LocalEngine(engine_config(options), options.idle_timeout)
    from ctx_lsp.engines.remote_engine import (
        RemoteEngine,  # brings numpy, which a local engine's server can start without
    )

    return RemoteEngine(options.engine.url, options.engine.token, options.model, options.max_context)
