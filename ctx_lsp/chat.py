"""A turn of a conversation: history, the engine's answer, its text sent on in pieces at a bearable rate.

Knows conversations and answers; what happens to documents and engines before is the session's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from ctx_lsp import wire
from ctx_lsp.engine_client import AnswerEnd, EngineClient, EngineLostError, Promptness, Turn
from ctx_lsp.protocol import (
    ChatDelta,
    ChatParams,
    ChatResult,
    ChunkPlan,
    DeltaKind,
    FidelityLabel,
    Plan,
    PlanParams,
    Sampling,
)
from ctx_lsp.session import Session
from ctx_lsp.shelf import encodable
from engine.config import SamplingParams
from engine.errors import InvalidRequestError
from engine.types import Message

_DELTA_SECONDS = 1 / 30


@dataclass
class Conversation:
    """Turns that were answered to their end. `lock` is held by the turn that is running."""

    history: list[Message] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class DeltaStream:
    """Sends pieces of text, numbered: the first at once, then what has gathered, 30 times a second, and whenever the
    kind changes.
    """

    def __init__(self, turn_id: str, send: Callable[[ChatDelta], None]) -> None:
        self._turn_id = turn_id
        self._send = send
        self._seq = 0
        self._gathered: list[str] = []
        self._kind: DeltaKind = "answer"
        self._timer: asyncio.TimerHandle | None = None

    def put(self, text: str, kind: DeltaKind = "answer") -> None:
        if kind != self._kind:
            self.flush()
            self._kind = kind
        self._gathered.append(text)
        if self._timer is None:
            self._flush_and_rest()

    def flush(self) -> None:
        if self._gathered:
            text = "".join(self._gathered)
            self._send(ChatDelta(turn_id=self._turn_id, seq=self._seq, text=text, kind=self._kind))
            self._seq += 1
            self._gathered.clear()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _flush_and_rest(self) -> None:
        self._timer = None
        if self._gathered:
            self.flush()
            self._timer = asyncio.get_running_loop().call_later(_DELTA_SECONDS, self._flush_and_rest)


class Chats:
    """All conversations of one server. Turns of one conversation are answered one after the other."""

    def __init__(self, session: Session, send: Callable[[ChatDelta], None]) -> None:
        self._session = session
        self._send = send
        self._conversations: dict[str, Conversation] = {}
        self._running: set[str] = set()

    async def ask(self, params: ChatParams) -> ChatResult:
        """Answers a question. Raises WireError for params that can't be meant, EngineError if there is no answer.

        A turn that is cancelled or fails leaves no trace in the history.
        """
        sampling, promptness = sampling_fields(params.sampling), self._promptness(params)
        with self._running_turn(params.turn_id):
            conversation = self._conversation(params.conversation_id)
            async with conversation.lock, self._session.engine() as client:
                await self._session.flush(client)
                question = Message(role="user", content=encodable(params.text))
                turn = Turn([*conversation.history, question], sampling, promptness)
                texts, end = await self._answer(client, params.turn_id, turn)
                conversation.history += [question, Message(role="assistant", content=texts["answer"])]
        if end.output is not None:
            self._session.context.keep_text(end.output, texts["answer"])
        return _result(params, texts, end)

    async def plan(self, params: PlanParams) -> Plan:
        """What a question would cost if it were asked now."""
        conversation, promptness = self._conversation(params.conversation_id), self._promptness(params)
        async with self._session.engine() as client:
            await self._session.flush(client)
            question = Message(role="user", content=encodable(params.text))
            return await self._session.context.plan(client, [*conversation.history, question], promptness)

    def forget(self, conversation_id: str) -> None:
        """Starts a conversation over; a turn that is running keeps the history it began with."""
        self._conversations.pop(conversation_id, None)

    def forget_all(self) -> None:
        self._conversations.clear()

    def _promptness(self, params: ChatParams | PlanParams) -> Promptness:
        """What the question asks for, else what the options say. Raises WireError."""
        options = self._session.options
        budget = options.latency_budget_ms if params.latency_budget_ms is None else params.latency_budget_ms
        if budget is not None and not budget >= 0:
            raise wire.WireError(["latencyBudgetMs: expected 0 or more"])
        return Promptness(params.fidelity or options.fidelity, budget)

    async def _answer(self, client: EngineClient, turn_id: str, turn: Turn) -> tuple[dict[DeltaKind, str], AnswerEnd]:
        """What was generated, by kind, and how it ended."""
        deltas = DeltaStream(turn_id, self._send)
        pieces: dict[DeltaKind, list[str]] = {"answer": [], "reasoning": []}
        try:
            async with aclosing(client.chat(self._session.context.id, turn)) as stream:
                async for item in stream:
                    if isinstance(item, AnswerEnd):
                        deltas.flush()
                        return {kind: "".join(texts) for kind, texts in pieces.items()}, item
                    pieces[item.kind].append(item.text)
                    deltas.put(item.text, item.kind)
        finally:
            deltas.close()
        raise EngineLostError("the engine ended the answer without saying why")

    def _conversation(self, conversation_id: str) -> Conversation:
        return self._conversations.setdefault(conversation_id, Conversation())

    @contextmanager
    def _running_turn(self, turn_id: str) -> Any:
        if turn_id in self._running:
            raise wire.WireError([f'turnId: "{turn_id}" names a turn that is still running'])
        self._running.add(turn_id)
        try:
            yield
        finally:
            self._running.discard(turn_id)


def sampling_fields(sampling: Sampling | None) -> dict[str, Any]:
    """The fields that were given, as the engine's HTTP API names them. Raises WireError for values out of range."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "stop", "seed")
    given = {name: getattr(sampling, name) for name in names if getattr(sampling, name, None) is not None}
    try:
        SamplingParams(**given)
    except InvalidRequestError as error:
        raise wire.WireError([f"sampling: {error.message}"]) from None
    return given


def worst_fidelity(chunks: tuple[ChunkPlan, ...]) -> FidelityLabel:
    """`exact` where there are no chunks."""
    order: tuple[FidelityLabel, ...] = get_args(FidelityLabel)
    return max((chunk.fidelity for chunk in chunks), key=order.index, default="exact")


def _result(params: ChatParams, texts: dict[DeltaKind, str], end: AnswerEnd) -> ChatResult:
    return ChatResult(
        turn_id=params.turn_id,
        conversation_id=params.conversation_id,
        text=texts["answer"],
        reasoning=texts["reasoning"],
        stop_reason=end.stop_reason,
        usage=end.usage,
        timing=end.timing,
        chunks=end.chunks,
        fidelity=worst_fidelity(end.chunks),
        output=end.output,
    )
