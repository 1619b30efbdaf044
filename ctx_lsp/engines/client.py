"""What the server asks of an engine, whatever it is: `EngineClient`, with the values and errors that its methods have.

`ctx_engine_client` speaks with a ctx-engine, `openai_engine` with any server of OpenAI's API. Knows nothing of either.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from ctx_lsp.protocol import (
    ChunkInfo,
    ChunkPlan,
    ChunksResult,
    DeltaKind,
    EngineStats,
    Fidelity,
    Order,
    Plan,
    StopReason,
    Timing,
    Usage,
)
from engine.errors import EngineError
from engine.types import EngineEvent, Message


class EngineLostError(EngineError):
    """The engine's process ended or can't be reached."""

    code = "engine_lost"
    status = 503


class RemoteEngineError(EngineError):
    """An error the engine answered; `code` and `data` are its own."""

    def __init__(self, code: str, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data or {}


@dataclass(frozen=True)
class Health:
    """What an engine says of itself; `status` is ``loading``, ``ready``, ``failed`` or ``stopped``.

    `exact_only` says why all questions are answered as ``exact``, where they are.
    """

    status: str
    message: str
    progress: float | None
    model: str
    device: str | None
    max_context: int | None
    exact_only: str | None


@dataclass(frozen=True)
class Promptness:
    """How exact a question wants its context, and what it would spend on that; None takes the engine's own budget."""

    fidelity: Fidelity
    latency_budget_ms: float | None = None

    def fields(self) -> dict[str, Any]:
        """As a request has them."""
        budget = {} if self.latency_budget_ms is None else {"latency_budget_ms": self.latency_budget_ms}
        return {"fidelity": self.fidelity, **budget}


@dataclass(frozen=True)
class Turn:
    """A question with its history, and how to answer it. `sampling` has OpenAI's names and the engine's additions."""

    messages: Sequence[Message]
    sampling: dict[str, Any]
    promptness: Promptness


@dataclass(frozen=True)
class AnswerPiece:
    """Some of what is generated: of the answer, or of the thoughts before it."""

    text: str
    kind: DeltaKind


@dataclass(frozen=True)
class AnswerEnd:
    """How an answer ended and what it took."""

    stop_reason: StopReason
    usage: Usage
    timing: Timing
    chunks: tuple[ChunkPlan, ...]
    output: str | None


class EngineClient(Protocol):
    """Requests to one engine: EngineLostError when it is gone, RemoteEngineError when it refuses.

    Cancelling a call makes the engine stop that work. A ref names a chunk: a hash, a unique prefix of one, or a source.
    """

    async def close(self) -> None: ...

    async def health(self) -> Health: ...

    async def stats(self) -> EngineStats | None:
        """What the engine has counted; None if it doesn't count."""
        ...

    # -- contexts --------------------------------------------------------------------------------------------------

    async def create_context(self, context: str, instructions: str | None, order: Order) -> ChunksResult:
        """Creates or gets it."""
        ...

    async def describe_context(self, context: str) -> ChunksResult: ...

    async def drop_context(self, context: str) -> None: ...

    async def add_chunk(self, context: str, text: str, source: str, **fields: Any) -> ChunkInfo:
        """`fields`: kind, tags, active; what is left out takes the engine's default."""
        ...

    async def chunk_text(self, context: str, hash: str) -> str: ...

    async def remove_source(self, context: str, source: str) -> None: ...

    async def set_active(self, context: str, refs: Sequence[str], active: bool) -> tuple[ChunkInfo, ...]: ...

    async def set_pinned(self, context: str, refs: Sequence[str], pinned: bool) -> tuple[ChunkInfo, ...]: ...

    async def compose(self, context: str, refs: Sequence[str], name: str) -> ChunkInfo: ...

    async def move(self, context: str, ref: str, position: int) -> None: ...

    async def tag(self, context: str, ref: str, tags: Sequence[str], *, remove: bool = False) -> ChunkInfo: ...

    async def delete(self, context: str, refs: Sequence[str]) -> tuple[str, ...]:
        """The hashes that went."""
        ...

    async def clear(self, context: str, scope: str) -> None: ...

    async def populate(self, context: str, refs: Sequence[str] | None = None) -> Plan:
        """What there is to compute ahead of a question; the work goes on in the background."""
        ...

    async def stop_populating(self, context: str) -> None:
        """Nothing more is computed ahead of a question until `populate` or a question begins it again."""
        ...

    async def prompt(self, context: str, messages: Sequence[Message], promptness: Promptness) -> str:
        """The text the model would see if this were asked now."""
        ...

    async def plan(self, context: str, messages: Sequence[Message], promptness: Promptness) -> Plan: ...

    # -- streams ---------------------------------------------------------------------------------------------------

    def chat(self, context: str, turn: Turn) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
        """What is generated piece by piece, then one AnswerEnd."""
        ...

    def events(self, context: str) -> AbstractAsyncContextManager[AsyncIterator[EngineEvent]]:
        """The context's events, from when the block is entered until the engine is gone."""
        ...
