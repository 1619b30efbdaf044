"""Finds the engine process of a configuration through its runtime file, or starts one that outlives this server.

That two servers starting at once end up with one engine is the engine's own doing (it claims the runtime file). Knows
processes and files; knows nothing of contexts or chats.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine.config import EngineConfig
from engine.errors import EngineError
from engine.serve import runtime_file
from engine.serve.runtime_file import RuntimeInfo

COMMAND_VARIABLE = "CTX_LSP_ENGINE_COMMAND"
"""Starts the engine where it isn't `python -m engine.serve` of this environment; split like a shell command."""

START_SECONDS = 120.0
_POLL_SECONDS = 0.05
_DYING_SECONDS = 1.0
_LOG_BYTES = 1024 * 1024
_TAIL_LINES = 12


class EngineStartError(EngineError):
    """The engine process could not be started, or ended before it could be reached; `data["log"]` is its log file."""

    code = "engine_start_failed"
    status = 503


class EngineProcess:
    """The way to one engine. `find_or_start` may be called again whenever the engine has gone."""

    def __init__(self, config: EngineConfig, idle_timeout: float | None = None) -> None:
        self._config = config
        self._idle_timeout = idle_timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self.runtime_path = runtime_file.runtime_path(config)
        self.log_path = self.runtime_path.with_suffix(".log")

    async def find_or_start(self, on_step: Callable[[str], None]) -> RuntimeInfo:
        """A running engine that answers. Raises EngineStartError."""
        info = await asyncio.to_thread(self._find)
        if info is None:
            on_step("starting the engine")
            try:
                self._child = await asyncio.to_thread(self._spawn)
            except OSError as error:
                raise EngineStartError(f"the engine could not be started: {error}", log=str(self.log_path)) from error
            info = await self._await_start(self._child)
        self._pid = info.pid
        return info

    async def obituary(self) -> str:
        """How the engine that was found or started last ended, as far as can be known from here."""
        if self._pid is None:
            return "the engine has ended"
        is_child = self._child is not None and self._child.pid == self._pid
        ended = await self._has_ended(self._pid)
        if is_child and self._child is not None and self._child.returncode is not None:
            what = f"the engine ended with {_exit_words(self._child.returncode)}"
        else:
            what = "the engine has ended" if ended else f"the engine (process {self._pid}) can't be reached"
        return f"{what}; its log is {self.log_path}"

    async def _has_ended(self, pid: int) -> bool:
        """An engine's connections break a moment before its process is gone."""
        deadline = time.monotonic() + _DYING_SECONDS
        while self._is_running(pid) and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        return not self._is_running(pid)

    def _is_running(self, pid: int) -> bool:
        if self._child is not None and self._child.pid == pid:
            return self._child.poll() is None
        return runtime_file.pid_alive(pid)

    def _find(self, started: int | None = None) -> RuntimeInfo | None:
        """The live engine of the runtime file.

        One that failed to load its model doesn't count (a new one takes its place), unless its process id is `started`:
        then it has just failed, and is there to tell why.
        """
        info = runtime_file.read(self.runtime_path)
        if info is None or not runtime_file.pid_alive(info.pid):
            return None
        try:
            is_usable = runtime_file.health(info)["status"] not in ("failed", "stopped")
        except TimeoutError:
            return info
        except OSError:
            return None
        return info if is_usable or info.pid == started else None

    async def _await_start(self, child: subprocess.Popen[bytes]) -> RuntimeInfo:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = child.poll() is not None
            info = await asyncio.to_thread(self._find, child.pid)
            if info is not None:
                return info
            if ended:
                raise EngineStartError(self._failure(child), log=str(self.log_path))
            await asyncio.sleep(_POLL_SECONDS)
        child.terminate()
        message = f"the engine did not answer within {START_SECONDS:.0f} s; its log is {self.log_path}"
        raise EngineStartError(message, log=str(self.log_path))

    def _failure(self, child: subprocess.Popen[bytes]) -> str:
        tail = _last_lines(self.log_path)
        return f"the engine ended while it was starting, with {_exit_words(child.returncode)}. Its last words:\n{tail}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        """In a session of its own, so that neither the editor's end nor a Ctrl-C in its terminal reaches it."""
        runtime_file.prepare_folder(self.runtime_path.parent)
        _rotate(self.log_path)
        with open(self.log_path, "ab", opener=_private_opener) as log:
            return subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _command(self) -> list[str]:
        override = os.environ.get(COMMAND_VARIABLE)
        command = shlex.split(override) if override else [sys.executable, "-m", "engine.serve"]
        options: dict[str, object] = {
            "--model": runtime_file.absolute_model(self._config.model),
            "--device": self._config.device,
            "--dtype": self._config.dtype,
            "--kv-dtype": self._config.kv_dtype,
            "--kv-cache-tokens": self._config.kv_cache_tokens,
            "--max-context": self._config.max_context,
            "--threads": self._config.threads,
            "--idle-timeout": self._idle_timeout,
            "--runtime-file": self.runtime_path,
        }
        pairs = ((name, str(value)) for name, value in options.items() if value is not None)
        return command + [part for pair in pairs for part in pair]


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _rotate(path: Path) -> None:
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        os.replace(path, path.with_suffix(".old.log"))


def _last_lines(path: Path) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError as error:
        return f"(no log: {error})"


def _exit_words(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {status}"
