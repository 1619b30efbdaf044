"""What a question is about besides the active chunks: files and selections, read as they are now.

Knows how documents are read; knows nothing of conversations.
"""

from __future__ import annotations

import re
from pathlib import Path

from ctx_lsp.protocol import Attachment, Selection, TurnContext
from ctx_lsp.session import Session
from ctx_lsp.workspace.selections import UnusableSelectionError, read_document, read_selection
from ctx_lsp.workspace.sources import normalize
from engine.errors import EngineError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters or more: `C:` is a drive


class UnreadableContextError(EngineError):
    """What a question should be about can't be read; `data["unreadable"]` says what, and why."""

    code = "unreadable_context"
    status = 400


async def read_context(session: Session, context: TurnContext) -> tuple[Attachment, ...]:
    """Files, then selections, each in its order. Raises WireError, UnreadableContextError.

    Selections are read first: their positions are those of the texts as the client had them when it asked.
    """
    uris = [_uri(session, file) for file in context.files]
    wanted: list[str | Selection] = [*context.selections, *uris]
    attachments: list[Attachment] = []
    unreadable: list[dict[str, str]] = []
    for item in wanted:
        try:
            attachments.append(await _read(session, item))
        except UnusableSelectionError as error:
            unreadable.append({"uri": error.data["uri"], "reason": error.message})
    if unreadable:
        reasons = "; ".join(item["reason"] for item in unreadable)
        raise UnreadableContextError(f"what the question is about can't be read: {reasons}", unreadable=unreadable)
    count = len(context.selections)
    return (*attachments[count:], *attachments[:count])


def _uri(session: Session, file: str) -> str:
    return file if _URI.match(file) else normalize(session.sources.base / Path(file).expanduser()).as_uri()


async def _read(session: Session, item: str | Selection) -> Attachment:
    if isinstance(item, Selection):
        selected = await read_selection(session, item)
        return Attachment(source=selected.source, range=item.range, text=selected.text)
    text = await read_document(session, item)
    source = session.sources.of_uri(item)
    if not text:
        raise UnusableSelectionError(f"{source} is empty", uri=item)
    return Attachment(source=source, text=text)
