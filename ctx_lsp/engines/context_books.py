"""The contexts of a server that keeps none, and the thread on which they are read and changed.

Knows how blocking calls get off the event loop; what a context is, `context_book` knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from ctx_lsp.engines.client import EngineLostError, RemoteEngineError
from ctx_lsp.engines.context_book import ContextBook
from engine.errors import EngineError, UnknownContextError

P = ParamSpec("P")
T = TypeVar("T")


class ContextBooks:
    """Contexts by id.

    Invariant: what changes a book or counts tokens goes through `do`, one call after the other.
    """

    def __init__(self) -> None:
        self._books: dict[str, ContextBook] = {}
        self._thread = ThreadPoolExecutor(1, "context-book")
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def open(self, context: str, make: Callable[[], ContextBook]) -> ContextBook:
        if context not in self._books:
            self._books[context] = make()
        return self._books[context]

    def drop(self, context: str) -> None:
        self._books.pop(context, None)

    def get(self, context: str) -> ContextBook:
        """Raises RemoteEngineError."""
        if context not in self._books:
            raise RemoteEngineError(UnknownContextError.code, f"there is no context {context!r}")
        return self._books[context]

    async def do(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises EngineLostError or RemoteEngineError."""
        if self._closed:
            raise EngineLostError("the connection to the server was closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *args, **kwargs))
        except (EngineLostError, RemoteEngineError):
            raise
        except EngineError as error:
            raise RemoteEngineError(error.code, error.message, error.data) from error
