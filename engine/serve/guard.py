"""What every request passes before it reaches a route: who may ask, how much, and what ends with the request.

Plain ASGI (a wrapper around `receive` must not hide that a client has gone). Knows headers and bytes, no routes.
"""

from __future__ import annotations

import hmac
from contextlib import ExitStack
from dataclasses import dataclass

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import EngineError
from engine.serve.errors import BodyTooLargeError, ForbiddenHostError, UnauthorizedError, error_response
from engine.serve.lifetime import Visits

_RESOURCES = "ctx.resources"
_DRAIN_FACTOR = 16


@dataclass(frozen=True)
class Gate:
    """Lets in requests that call this host by one of its names, carry the token and are not too large.

    While one is inside, its client counts as present. Its resources (see `resources`) are released when it leaves,
    be it answered, failed, cancelled or abandoned by its client.
    """

    app: ASGIApp
    token: str
    names: frozenset[str]
    max_body: int
    clients: Visits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(Headers(scope=scope))
        except EngineError as error:
            await error_response(error)(scope, receive, send)
            return
        with self.clients.visit(), ExitStack() as stack:
            scope[_RESOURCES] = stack
            body = LimitedBody(receive, self.max_body)
            if await body.announced_too_large(Headers(scope=scope)):
                await error_response(body.error())(scope, receive, send)
            else:
                await self.app(scope, body.receive, send)

    def _check(self, headers: Headers) -> None:
        if _host_name(headers.get("host", "")) not in self.names:
            known = ", ".join(sorted(self.names))
            raise ForbiddenHostError(f"the Host header must be one of {known} (more by --allowed-host)")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        matches = hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode("latin-1"))
        if scheme.lower() != "bearer" or not matches:
            raise UnauthorizedError("send the token of the runtime file as 'Authorization: Bearer <token>'")


@dataclass
class LimitedBody:
    """A request's `receive` that counts."""

    inner: Receive
    limit: int
    received: int = 0

    async def announced_too_large(self, headers: Headers) -> bool:
        """Whether the body is announced as too large; if so it has been read and thrown away.

        A client that is still sending would see a broken connection instead of the answer.
        """
        announced = headers.get("content-length", "")
        if not announced.isdecimal() or int(announced) <= self.limit:
            return False
        await self._drain()
        return True

    async def receive(self) -> Message:
        message = await self.inner()
        self.received += len(message.get("body", b""))
        if self.received > self.limit:
            if message.get("more_body"):
                await self._drain()
            raise HTTPException(413, self.error())  # any other exception would be blamed on the body's syntax
        return message

    def error(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body exceeds the limit of {self.limit} bytes", limit=self.limit)

    async def _drain(self) -> None:
        """Read the rest, within reason."""
        most = self.limit * _DRAIN_FACTOR
        while self.received <= most:
            message = await self.inner()
            self.received += len(message.get("body", b""))
            if not message.get("more_body"):
                return


def resources(connection: HTTPConnection) -> ExitStack:
    """What is entered here is left when the request has ended, however it ends."""
    stack = connection.scope[_RESOURCES]
    assert isinstance(stack, ExitStack)
    return stack


def _host_name(host: str) -> str:
    """The Host header without its port, lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
