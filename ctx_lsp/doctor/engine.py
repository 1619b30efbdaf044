"""What `ctx-lsp doctor` looks at of engines: those that run, and on demand whether one starts and loads its model.

Knows the way a server takes to its engine; the machine's own checks are in `checks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from ctx_lsp.cli.engine import running_engines
from ctx_lsp.doctor.checks import Check, Finding
from ctx_lsp.engines.client import Health
from ctx_lsp.engines.process import EngineProcess
from ctx_lsp.engines.remote_engine import RemoteEngine
from engine.config import EngineConfig
from engine.errors import EngineError
from engine.serve import runtime_file
from engine.serve.runtime_file import RuntimeInfo
from engine.serve.stages import Stage, in_words

_HEALTH_SECONDS = 0.2


def running(_: EngineConfig) -> Iterator[Finding]:
    """Each engine of this user, and whether it does its work."""
    engines = running_engines()
    if not engines:
        yield Finding("engine", "ok", "none is running; the first editor starts one")
    for engine in engines:
        who = f"{engine.info.model} (process {engine.info.pid})"
        status = engine.health.get("status", "busy")
        if status in ("failed", "stopped"):
            message = f"{who} {status}: {engine.health.get('message')}"
            yield Finding("engine", "warn", message, "`ctx-lsp engine stop` ends it; `--start` shows why it fails.")
        else:
            yield Finding("engine", "ok", f"{who} is {status} at {engine.info.url}")


def starts(config: EngineConfig) -> Iterator[Finding]:
    """Brings up the engine of this configuration as a server does. It is left running, as a server leaves it."""
    process = EngineProcess(config)
    try:
        health = asyncio.run(_loaded(process))
    except (EngineError, OSError) as error:
        message = error.message if isinstance(error, EngineError) else str(error)
        yield Finding("start", "fail", message, f"The engine's log is {process.log_path}.")
        return
    if health["status"] != "ready":
        message = f"{config.model} could not be loaded: {health.get('message')}"
        yield Finding("start", "fail", message, f"The engine's log is {process.log_path}.")
        return
    stages = [Stage(**stage) for stage in health.get("stages", ())]
    start = f"; its start took {in_words(stages)}" if stages else ""
    yield Finding("start", "ok", f"{config.model} is loaded on {health.get('device')}{start}")


def answers_at(url: str, token: str | None) -> Check:
    """A check of the engine that the option `engine.url` would name."""

    def engine(_: EngineConfig) -> Iterator[Finding]:
        try:
            health = asyncio.run(_health_at(url, token))
        except EngineError as error:
            yield Finding("engine", "fail", error.message, "Look at `engine.url`, and whether it is reached from here.")
            return
        message = f"{health.model} is {health.status} at {url}"
        yield Finding("engine", "ok" if health.status == "ready" else "warn", message)

    return engine


async def _health_at(url: str, token: str | None) -> Health:
    client = await RemoteEngine(url, token, None, None).connect(lambda _: None)
    try:
        return await client.health()
    finally:
        await client.close()


async def _loaded(process: EngineProcess) -> dict[str, Any]:
    """The engine's health when it no longer loads."""
    info: RuntimeInfo = await process.find_or_start(lambda _: None)
    while True:
        health = await asyncio.to_thread(runtime_file.health, info)
        if health["status"] != "loading":
            return health
        await asyncio.sleep(_HEALTH_SECONDS)
