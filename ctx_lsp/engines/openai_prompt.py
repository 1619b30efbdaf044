"""The prompt as messages of OpenAI's API, cut into pieces of which each has its tokens, and what two prompts share.

Lays out what `engine/prompt.py` does for a ctx-engine: instructions, chunks in their frames, then the conversation.
Knows nothing of contexts or servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from engine.chunk import Chunk
from engine.chunk_frame import ChunkText, frame
from engine.config import DEFAULT_INSTRUCTIONS
from engine.types import Message

_TEMPLATE_TOKENS = 5  # around each message, as most templates have them


@dataclass(frozen=True)
class Piece:
    """A stretch of the prompt. `text` begins with its message's role where it begins the message."""

    text: str
    tokens: int
    chunk: Chunk | None = None


@dataclass(frozen=True)
class Prompt:
    """What is sent, and the same in pieces."""

    messages: tuple[Message, ...]
    pieces: tuple[Piece, ...]

    @cached_property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def content(self) -> str:
        """What is said, without who says it."""
        return "".join(message["content"] for message in self.messages)

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    def scaled(self, part: int, whole: int) -> tuple[int, int]:
        """A part of the prompt, and all of it, as its tokens are counted here."""
        return self.tokens * part // max(1, whole), self.tokens

    def shared(self, seen: str) -> tuple[int, ...]:
        """Tokens of each piece that a server has computed which has `seen` another prompt, or more than that."""
        left = common_length(self.text, seen)
        counts = []
        for piece in self.pieces:
            length = min(left, len(piece.text))
            counts.append(piece.tokens * length // len(piece.text))
            left -= length
        return tuple(counts)

    def spread(self, tokens: int) -> tuple[int, ...]:
        """So many tokens over the pieces, from the first one on."""
        counts = []
        for piece in self.pieces:
            counts.append(min(piece.tokens, tokens))
            tokens -= counts[-1]
        return tuple(counts)


def chunk_frame(chunk: Chunk) -> str:
    return frame(ChunkText(chunk.text, chunk.sources, chunk.kind, chunk.name))


def compose(
    instructions: str | None,
    chunks: Sequence[Chunk],
    turns: Sequence[Message],
    count: Callable[[str], int],
    in_system: bool = True,
) -> Prompt:
    """Instructions and chunks, then the turns; a leading system message among these replaces the instructions.

    What stands before the turns is the system message, or `in_system` being false the beginning of the first turn.
    """
    if turns and turns[0]["role"] == "system":
        instructions, turns = turns[0]["content"], turns[1:]
    opening = DEFAULT_INSTRUCTIONS if instructions is None else instructions
    opening = f"{opening}\n" if opening.strip() else ""
    frames = [chunk_frame(chunk) for chunk in chunks]
    before = opening + "".join(frames)
    pieces = [_begin("system" if in_system else "user", opening, count)] if before else []
    pieces += [Piece(text, count(text), chunk) for text, chunk in zip(frames, chunks, strict=True)]
    pieces += [_begin(turn["role"], turn["content"], count) for turn in turns]
    return Prompt(tuple(_messages(before, turns, in_system)), tuple(pieces))


def _messages(before: str, turns: Sequence[Message], in_system: bool) -> Iterator[Message]:
    if before and (in_system or not turns):
        yield Message(role="system" if in_system else "user", content=before)
    for index, turn in enumerate(turns):
        merged = before and not in_system and index == 0
        yield Message(role=turn["role"], content=before + turn["content"]) if merged else turn


def said(role: str, content: str) -> str:
    """A message as it stands in the text of a prompt."""
    return f"\0{role}\0{content}"


def common_length(one: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _begin(role: str, content: str, count: Callable[[str], int]) -> Piece:
    return Piece(said(role, content), (count(content) if content else 0) + _TEMPLATE_TOKENS)
