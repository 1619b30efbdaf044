"""A turn as messages: what it was about, the question, and as much of the conversation before as the window holds.

Knows turns and messages; whether messages fit is asked elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ctx_lsp.protocol import Attachment, ChatTurn
from ctx_lsp.workspace.shelf import encodable
from engine.chunk_frame import ChunkText, frame
from engine.types import ChunkKind, Message


def question_message(question: str, attachments: Sequence[Attachment]) -> Message:
    """The user's message: files and selections in the form that chunks have in the prompt, then the question."""
    pieces = [*(frame(_chunk_text(attachment)) for attachment in attachments), question]
    return Message(role="user", content=encodable("\n".join(pieces)))


def history_messages(turns: Sequence[ChatTurn]) -> list[Message]:
    """Turns as the model was asked and answered; never what it thought."""
    messages = []
    for turn in turns:
        messages += [
            question_message(turn.question, turn.context),
            Message(role="assistant", content=encodable(turn.answer)),
        ]
    return messages


async def turns_without_room(turns: Sequence[ChatTurn], fit: Callable[[Sequence[ChatTurn]], Awaitable[bool]]) -> int:
    """How many of the oldest turns have to be left out so that the rest fits; all of them where nothing does."""
    if not turns or await fit(turns):
        return 0
    fewest, most = 1, len(turns)
    while fewest < most:
        count = (fewest + most) // 2
        if await fit(turns[count:]):
            most = count
        else:
            fewest = count + 1
    return most


def _chunk_text(attachment: Attachment) -> ChunkText:
    kind = ChunkKind.FILE if attachment.range is None else ChunkKind.SELECTION
    return ChunkText(attachment.text, (attachment.source,), kind, attachment.source)
