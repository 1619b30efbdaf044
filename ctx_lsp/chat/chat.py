"""A turn of a conversation, from its params to its result: what is asked, the engine's answer, what is kept of both.

Knows conversations and answers; what happens to documents and engines before is the session's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import attrs
from lsprotocol import types

from ctx_lsp import wire
from ctx_lsp.chat.attachments import read_context
from ctx_lsp.chat.code_blocks import find_blocks
from ctx_lsp.chat.conversation import Conversation, now
from ctx_lsp.chat.conversation_store import ConversationStore
from ctx_lsp.chat.conversations import Conversations
from ctx_lsp.chat.delta_stream import DeltaStream
from ctx_lsp.chat.turn_prompt import history_messages, question_message, turns_without_room
from ctx_lsp.client.text_sync import units
from ctx_lsp.engines.client import AnswerEnd, EngineClient, EngineLostError, Promptness, RemoteEngineError, Turn
from ctx_lsp.protocol import (
    Attachment,
    ChatDelta,
    ChatParams,
    ChatResult,
    ChatTurn,
    ChunkPlan,
    CodeBlock,
    DeltaKind,
    FidelityLabel,
    HistoryResult,
    Plan,
    PlanParams,
    Sampling,
    TurnContext,
)
from ctx_lsp.session import Session
from ctx_lsp.state_folder import workspace_folder
from ctx_lsp.workspace.budget import reserved_tokens
from engine.config import SamplingParams
from engine.errors import ContextFullError, InvalidRequestError
from engine.types import Message


@dataclass(frozen=True)
class Question:
    """What is asked and about what, behind the turns that stay before it."""

    before: tuple[ChatTurn, ...]
    text: str
    context: tuple[Attachment, ...]

    def messages(self, turns: Sequence[ChatTurn]) -> list[Message]:
        return [*history_messages(turns), question_message(self.text, self.context)]


@dataclass(frozen=True)
class Asking:
    """How a question is put to the engine."""

    sampling: dict[str, Any]
    promptness: Promptness


class Chats:
    """Asks the questions of one server. Turns of one conversation are answered one after the other."""

    def __init__(self, session: Session, send: Callable[[ChatDelta], None]) -> None:
        self._session = session
        self._send = send
        self._running: set[str] = set()
        self.conversations = _conversations(session)

    async def ask(self, params: ChatParams, attached: Sequence[Attachment] = ()) -> ChatResult:
        """Answers a question, which is about what is `attached`, too. Raises WireError for params that can't be meant,
        EngineError if there is no answer.

        A turn that is cancelled or fails leaves the conversation as it was.
        """
        asking = Asking(sampling_fields(params.sampling), await self._promptness(params))
        if params.text is None and params.replaces is None:
            raise wire.WireError(["text: is missing, and only a turn that `replaces` another can do without"])
        with self._running_turn(params.turn_id):
            attachments = await self._attachments(params.context)
            if attached:
                attachments = (*(attachments or ()), *attached)
            async with self.conversations.turn(params.conversation_id) as turn:
                question, asked = _question(turn.conversation, params, attachments), now()
                async with self._session.engine() as client:
                    await self._session.flush(client)
                    left_out = await self._turns_without_room(client, question, asking)
                    messages = question.messages(question.before[left_out:])
                    engine_turn = Turn(messages, asking.sampling, asking.promptness)
                    texts, end = await self._answer(client, params.turn_id, engine_turn)
                answered = _turn(params.turn_id, question, asked, texts, end)
                await self.conversations.keep(turn, (*question.before, answered))
        if end.output is not None:
            self._session.context.keep_text(end.output, texts["answer"])
        return self._result(params, texts, end, left_out)

    async def plan(self, params: PlanParams) -> Plan:
        """What a question would cost if it were asked now."""
        async with self._ahead(params) as (client, messages, promptness):
            return await self._session.context.plan(client, messages, promptness)

    async def prompt(self, params: PlanParams) -> str:
        """What the model would see if this were asked now."""
        async with self._ahead(params) as (client, messages, promptness):
            return await self._session.context.prompt(client, messages, promptness)

    @asynccontextmanager
    async def _ahead(self, params: PlanParams) -> AsyncIterator[tuple[EngineClient, list[Message], Promptness]]:
        """A question as it would be put to the engine now, which has the latest text of every document."""
        asking = Asking({}, await self._promptness(params))
        attachments = await self._attachments(params.context) or ()
        conversation = await self.conversations.peek(params.conversation_id)
        question = Question(conversation.turns, params.text, attachments)
        async with self._session.engine() as client:
            await self._session.flush(client)
            left_out = await self._turns_without_room(client, question, asking)
            yield client, question.messages(question.before[left_out:]), asking.promptness

    async def history(self, conversation_id: str) -> HistoryResult:
        """Raises UnknownConversationError."""
        conversation = await self.conversations.get(conversation_id)
        turns = (attrs.evolve(turn, code_blocks=self.code_blocks(turn.answer)) for turn in conversation.turns)
        return HistoryResult(conversation=conversation.info, turns=tuple(turns))

    def code_blocks(self, answer: str) -> tuple[CodeBlock, ...]:
        """The answer's blocks, with offsets as the client counts."""
        return tuple(
            CodeBlock(
                language=block.language,
                path=block.path,
                text=block.text,
                start=units(answer[: block.start], self._session.encoding),
                end=units(answer[: block.end], self._session.encoding),
            )
            for block in find_blocks(answer)
        )

    async def _attachments(self, context: TurnContext | None) -> tuple[Attachment, ...] | None:
        return None if context is None else await read_context(self._session, context)

    async def _promptness(self, params: ChatParams | PlanParams) -> Promptness:
        """What the question asks for, else what the options say. Raises WireError."""
        await self._session.configuration.settled()
        options = self._session.options
        budget = options.latency_budget_ms if params.latency_budget_ms is None else params.latency_budget_ms
        if budget is not None and not budget >= 0:
            raise wire.WireError(["latencyBudgetMs: expected 0 or more"])
        return Promptness(params.fidelity or options.fidelity, budget)

    async def _turns_without_room(self, client: EngineClient, question: Question, asking: Asking) -> int:
        """Leaves room for an answer, too."""

        async def fit(turns: Sequence[ChatTurn]) -> bool:
            try:
                plan = await self._session.context.plan(client, question.messages(turns), asking.promptness)
            except RemoteEngineError as error:
                if error.code != ContextFullError.code:
                    raise
                return False
            room = reserved_tokens(plan.limit)
            wanted: int = asking.sampling.get("max_tokens", room)
            return plan.tokens + min(room, wanted) <= plan.limit

        return await turns_without_room(question.before, fit)

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

    def _result(
        self, params: ChatParams, texts: dict[DeltaKind, str], end: AnswerEnd, left_out_turns: int
    ) -> ChatResult:
        return ChatResult(
            turn_id=params.turn_id,
            conversation_id=params.conversation_id,
            text=texts["answer"],
            reasoning=texts["reasoning"],
            code_blocks=self.code_blocks(texts["answer"]),
            stop_reason=end.stop_reason,
            usage=end.usage,
            timing=end.timing,
            chunks=end.chunks,
            fidelity=worst_fidelity(end.chunks),
            output=end.output,
            left_out_turns=left_out_turns,
        )

    @contextmanager
    def _running_turn(self, turn_id: str) -> Iterator[None]:
        if turn_id in self._running:
            raise wire.WireError([f'turnId: "{turn_id}" names a turn that is still running'])
        self._running.add(turn_id)
        try:
            yield
        finally:
            self._running.discard(turn_id)


def _conversations(session: Session) -> Conversations:
    """Those of the workspace that the session began with."""
    loop = asyncio.get_running_loop()

    def warn(message: str) -> None:
        loop.call_soon_threadsafe(session.editor.log, message, types.MessageType.Warning)

    folder = workspace_folder(session.sources.folders) / "conversations"
    return Conversations(ConversationStore(folder, warn), warn)


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


def _question(conversation: Conversation, params: ChatParams, attachments: tuple[Attachment, ...] | None) -> Question:
    """What is asked: of a turn that replaces another, what isn't given is as it was there. Raises UnknownTurnError."""
    if params.replaces is None:
        return Question(conversation.turns, params.text or "", attachments or ())
    replaced = conversation.turn(params.replaces)
    text = replaced.question if params.text is None else params.text
    context = replaced.context if attachments is None else attachments
    return Question(conversation.before(params.replaces), text, context)


def _turn(turn_id: str, question: Question, asked: str, texts: dict[DeltaKind, str], end: AnswerEnd) -> ChatTurn:
    return ChatTurn(
        turn_id=turn_id,
        question=question.text,
        context=question.context,
        answer=texts["answer"],
        reasoning=texts["reasoning"],
        stop_reason=end.stop_reason,
        usage=end.usage,
        asked=asked,
    )
