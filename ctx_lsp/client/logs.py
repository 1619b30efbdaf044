"""What the server says of its own work: to a file, to stderr, and to the client that it concerns.

Modules log by `logging` as everywhere. A record that arises while a client is served goes to that client as a
`window/logMessage`, and how much of it counts is that client's `logLevel`. Nobody logs the text of files, or secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path

from lsprotocol.types import MessageType

from ctx_lsp import __version__
from ctx_lsp.protocol import LogLevel
from ctx_lsp.state_folder import state_folder

LEVEL_VARIABLE = "CTX_LSP_LOG"
"""How much goes to stderr."""

LEVELS: dict[LogLevel, int] = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
KINDS = {
    logging.ERROR: MessageType.Error,
    logging.WARNING: MessageType.Warning,
    logging.INFO: MessageType.Info,
    logging.DEBUG: MessageType.Log,
}

_OURS = logging.getLogger("ctx_lsp")
_FILE_BYTES = 1024 * 1024
_KEPT_FILES = 10


@dataclass
class Voice:
    """How one client is told. `level` is the least that counts."""

    tell: Callable[[MessageType, str], None]
    level: int = logging.INFO
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


_voice: ContextVar[Voice | None] = ContextVar("voice", default=None)


def speak(voice: Voice) -> None:
    """From now on, what is logged in this context and in those that come of it goes to this client, too."""
    if not any(isinstance(handler, _ClientHandler) for handler in _OURS.handlers):
        _OURS.addHandler(_ClientHandler())
        _OURS.setLevel(logging.DEBUG)  # how much counts depends on who is served
    _voice.set(voice)


def set_level(level: LogLevel) -> None:
    """How much counts of what this context's client is served."""
    if (voice := _voice.get()) is not None:
        voice.level = LEVELS[level]


def folder() -> Path:
    """Where log files are."""
    return state_folder() / "log"


def start() -> None:
    """Makes this process log to stderr and to a file of its own. Where there can be no file, says so and goes on."""
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setLevel(os.environ.get(LEVEL_VARIABLE, "WARNING").upper())
    logging.basicConfig(handlers=[stderr], level=logging.WARNING, format="%(levelname)s:%(name)s:%(message)s")
    _OURS.setLevel(logging.DEBUG)
    try:
        logging.getLogger().addHandler(_file_handler())
    except OSError as error:
        _OURS.warning("there is no log file: %s", error)
    _OURS.info("ctx-lsp %s, process %d, Python %s", __version__, os.getpid(), sys.version.split()[0])


def file() -> Path | None:
    """The log file of this process, if it has one."""
    handlers = logging.getLogger().handlers
    return next((Path(h.baseFilename) for h in handlers if isinstance(h, RotatingFileHandler)), None)


def _file_handler() -> logging.Handler:
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    _prune()
    path = folder() / f"server-{os.getpid()}.log"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o600))
    handler = RotatingFileHandler(path, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_counts)
    return handler


def _prune() -> None:
    """Keeps the latest logs of servers that have ended."""
    with contextlib.suppress(OSError):
        files = sorted(folder().glob("server-*.log*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[_KEPT_FILES:]:
            path.unlink()


def _counts(record: logging.LogRecord) -> bool:
    voice = _voice.get()
    return record.levelno >= (logging.INFO if voice is None else voice.level)


class _ClientHandler(logging.Handler):
    """Tells the client that the record's context serves, from whatever thread."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(_counts)

    def emit(self, record: logging.LogRecord) -> None:
        if (voice := _voice.get()) is None:
            return
        message = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            message += f": {record.exc_info[1]!r}"
        kind = KINDS.get(record.levelno, MessageType.Log)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            if _on_loop(voice.loop):
                voice.tell(kind, message)
            else:
                voice.loop.call_soon_threadsafe(voice.tell, kind, message)


def _on_loop(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
