"""`ctx-lsp engine`: shows and ends the engine processes of this user, which outlive the editors that started them.

Finds them through their runtime files; starts none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.serve import runtime_file
from engine.serve.runtime_file import RuntimeInfo

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

END_SECONDS = 20.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class RunningEngine:
    """An engine that answers; `health` is what it says of itself, empty while it is too busy to say."""

    info: RuntimeInfo
    health: dict[str, Any]


def add_arguments(subparsers: Subparsers) -> None:
    """Adds the `engine` command and its own commands to a parser's subparsers."""
    parser = subparsers.add_parser("engine", help="show or end the engine processes that hold the models")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("status", help="list running engines").set_defaults(run=lambda _: status())
    commands.add_parser("stop", help="end all running engines").set_defaults(run=lambda _: stop())


def running_engines() -> list[RunningEngine]:
    """Engines of this user that live now, the oldest first."""
    infos = (runtime_file.read(path) for path in runtime_file.runtime_dir().glob("engine-*.json"))
    found = [engine for info in infos if info is not None and (engine := _ask(info)) is not None]
    return sorted(found, key=lambda engine: engine.info.started)


def status(say: Callable[[str], None] = print) -> int:
    """Tells what runs. Returns the exit code: 0, also where nothing runs."""
    engines = running_engines()
    if not engines:
        say("No engine is running.")
    for engine in engines:
        say(_describe(engine))
    return 0


def stop(say: Callable[[str], None] = print) -> int:
    """Ends what runs and waits for it. Returns the exit code: 1 if one did not end."""
    engines = running_engines()
    if not engines:
        say("No engine is running.")
    return 0 if all([_stop(engine.info, say) for engine in engines]) else 1


def _ask(info: RuntimeInfo) -> RunningEngine | None:
    if not runtime_file.pid_alive(info.pid):
        return None
    try:
        return RunningEngine(info, runtime_file.health(info))
    except TimeoutError:
        return RunningEngine(info, {})
    except OSError:
        return None


def _describe(engine: RunningEngine) -> str:
    info, health = engine.info, engine.health
    minutes = max(0, int(time.time() - info.started)) // 60
    parts = [
        info.model,
        health.get("device"),
        health.get("status", "busy"),
        f"process {info.pid}",
        f"running for {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"running for {minutes} min",
        info.url,
    ]
    return " · ".join(str(part) for part in parts if part)


def _stop(info: RuntimeInfo, say: Callable[[str], None]) -> bool:
    try:
        runtime_file.request_shutdown(info)
    except OSError as error:
        say(f"{info.model} (process {info.pid}) could not be asked to end: {error}")
        return False
    deadline = time.monotonic() + END_SECONDS
    while runtime_file.pid_alive(info.pid):
        if time.monotonic() > deadline:
            say(f"{info.model} (process {info.pid}) has not ended yet")
            return False
        time.sleep(_POLL_SECONDS)
    say(f"Ended {info.model} (process {info.pid})")
    return True
