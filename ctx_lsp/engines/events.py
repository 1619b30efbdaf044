"""Server-sent events: bytes to (event, data) pairs. Knows the format, not what the events mean."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True)
class SseEvent:
    """`name` is ``message`` where the stream gave none."""

    name: str
    data: str


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[SseEvent]:
    """Events as their closing empty line arrives; comments (heartbeats) and unknown fields are skipped."""
    name, data = "message", list[str]()
    async for line in _lines(chunks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line and data:
            yield SseEvent(name, "\n".join(data))
            name, data = "message", []


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Lines that end in LF or CRLF alone: httpx' own would also split at U+2028 and others, which JSON may contain."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode()
