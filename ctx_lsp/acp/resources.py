"""The texts of a prompt's resources: as the client sent them, else as it has them, else as they are on disk.

How a client's buffers are asked for is the caller's business; how the core reads files is its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from ctx_lsp.acp.blocks import Resource
from ctx_lsp.chat.attachments import read_context
from ctx_lsp.protocol import Attachment, TurnContext
from ctx_lsp.session import Session
from ctx_lsp.workspace.sources import path_of

Reader = Callable[[Path], Awaitable[str | None]]
"""Gives the text that the client has of a file, None where it has none to give."""


async def attach(core: Session, resources: Sequence[Resource], read: Reader) -> tuple[Attachment, ...]:
    """What the question is about. Raises EngineError for what can't be read."""
    attachments: list[Attachment] = []
    for resource in resources:
        text = resource.text
        if text is None and (path := path_of(resource.uri)) is not None:
            text = await read(path)
        if text is None:
            attachments += await read_context(core, TurnContext(files=(resource.uri,)))
        else:
            attachments.append(_attachment(core, resource, text))
    return tuple(attachments)


def _attachment(core: Session, resource: Resource, text: str) -> Attachment:
    return Attachment(source=core.sources.of_uri(resource.uri), range=resource.range, text=text)
