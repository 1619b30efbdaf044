"""The HTTP server of the process: a socket, uvicorn, and an end that lets go of every client first.

Knows sockets and signals, no routes.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from engine.serve.app import create_app
from engine.serve.exposure import LOOPBACK, in_url, is_wildcard
from engine.serve.loading import EngineHost
from engine.serve.services import Services, Settings

_GRACE_SECONDS = 5  # for answers that are being written when the end comes


def bind(port: int = 0, host: str = LOOPBACK) -> socket.socket:
    """A listening socket; port 0 takes a free one. Connections queue from now on. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    listener.set_inheritable(False)
    return listener


def address(listener: socket.socket) -> str:
    """Where clients of this machine find it."""
    host, port = listener.getsockname()[:2]
    if is_wildcard(host):
        host = "::1" if ":" in host else LOOPBACK
    return f"http://{in_url(host)}:{port}"


class Server(uvicorn.Server):
    """Serves one engine until it is told to end, by a client, by idleness or by a signal."""

    def __init__(
        self,
        host: EngineHost,
        settings: Settings,
        *,
        tidy: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`tidy` is done every few seconds, `on_end` as soon as the end has begun: before connections are closed."""
        self._on_end = on_end
        app = create_app(host, settings, self.end, tidy)
        self.services: Services = app.state.services
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )

    def end(self) -> None:
        """Begin to end; returns at once. Safe in a signal handler and on any thread."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_end()
        self.services.stop()  # else open event streams would keep uvicorn waiting
        await super().shutdown(sockets)

    @contextmanager
    def until_signal(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server, before, during and after `run`, rather than the interpreter."""

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.end()

        numbers = (signal.SIGTERM, signal.SIGINT)
        previous = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
