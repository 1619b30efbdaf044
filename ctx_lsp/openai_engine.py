"""An `EngineClient` for any server of OpenAI's API: the context is kept here, the server's prefix cache is kept warm.

Active chunks stand in a stable order at the beginning of every prompt, and requests for a single token let the server
compute them ahead of the question. Knows when what is sent; how is the `OpenAIServer`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, ParamSpec, TypeVar

from ctx_lsp.context_book import ContextBook, chunk_plans
from ctx_lsp.engine_client import (
    AnswerEnd,
    AnswerPiece,
    EngineLostError,
    Health,
    Promptness,
    RemoteEngineError,
    Turn,
)
from ctx_lsp.openai_answer import Answer
from ctx_lsp.openai_errors import ServerLoadingError, refuses_system
from ctx_lsp.openai_prompt import Prompt
from ctx_lsp.openai_server import OpenAIServer, ServedModel, Tally
from ctx_lsp.prefix_warmer import PrefixWarmer
from ctx_lsp.protocol import ChunkInfo, ChunksResult, Order, Plan
from ctx_lsp.token_counter import TokenCounter
from engine.errors import EngineError, UnknownContextError
from engine.types import ChunksChanged, EngineEvent, Message, PopulateFailed, PopulateProgress

P = ParamSpec("P")
T = TypeVar("T")

ASSUMED_LIMIT = 8192  # where neither the server nor the options tell
_HEARTBEAT_SECONDS = 15.0
_WARMING = Message(role="user", content="Ready?")  # templates want a question


class OpenAIEngine:
    """One server. `health` must have said ``ready`` before anything else is asked.

    Invariant: what changes a book or counts tokens runs on `_thread`, one call after the other.
    """

    def __init__(self, server: OpenAIServer, model: str | None, max_context: int | None) -> None:
        self._server = server
        self._wanted = model
        self._max_context = max_context
        self._model: ServedModel | None = None
        self._counter = TokenCounter(None)
        self._books: dict[str, ContextBook] = {}
        self._mailboxes: dict[str, list[asyncio.Queue[EngineEvent]]] = {}
        self._thread = ThreadPoolExecutor(1, "context-book")
        self._speed: float | None = None
        self._in_system = True
        self._warmer = PrefixWarmer(self._warm, self._is_warming)
        self._kept_warm: set[str] = set()
        self._warming: str | None = None
        self._one_by_one = asyncio.Lock()
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await self._warmer.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._server.close()

    async def health(self) -> Health:
        """Finds out what is served, and how it counts."""
        try:
            self._model = await self._server.find_model(self._wanted)
        except ServerLoadingError as error:
            return Health("loading", error.message, None, self._wanted or "", None, None, None)
        self._counter = TokenCounter(await asyncio.to_thread(self._server.token_counter, self._model))
        return Health("ready", "ready", None, self._model.name, self._server.url, self._limit(), None)

    async def stats(self) -> None:
        """No server of OpenAI's API tells how it is doing in a way that all share."""

    def _limit(self) -> int:
        told = [limit for limit in (self._served.limit, self._max_context) if limit is not None]
        return min(told, default=ASSUMED_LIMIT)

    @property
    def _served(self) -> ServedModel:
        assert self._model is not None, "health comes first"
        return self._model

    # -- contexts --------------------------------------------------------------------------------------------------

    async def create_context(self, context: str, instructions: str | None, order: Order) -> ChunksResult:
        if context not in self._books:
            self._books[context] = ContextBook(self._counter, self._limit())
        await self._do(self._books[context].configure, instructions, order)
        return await self.describe_context(context)

    async def describe_context(self, context: str) -> ChunksResult:
        return await self._do(self._book(context).describe)

    async def drop_context(self, context: str) -> None:
        await self.stop_populating(context)
        self._books.pop(context, None)

    async def add_chunk(self, context: str, text: str, source: str, **fields: Any) -> ChunkInfo:
        return await self._change(context, self._book(context).add, text, source, **fields)

    async def chunk_text(self, context: str, hash: str) -> str:
        return await self._do(self._book(context).text, hash)

    async def remove_source(self, context: str, source: str) -> None:
        await self._change(context, self._book(context).remove_source, source)

    async def set_active(self, context: str, refs: Sequence[str], active: bool) -> tuple[ChunkInfo, ...]:
        return await self._change(context, self._book(context).set_active, refs, active)

    async def set_pinned(self, context: str, refs: Sequence[str], pinned: bool) -> tuple[ChunkInfo, ...]:
        return await self._change(context, self._book(context).set_pinned, refs, pinned)

    async def compose(self, context: str, refs: Sequence[str], name: str) -> ChunkInfo:
        return await self._change(context, self._book(context).compose, refs, name)

    async def move(self, context: str, ref: str, position: int) -> None:
        await self._change(context, self._book(context).move, ref, position)

    async def tag(self, context: str, ref: str, tags: Sequence[str], *, remove: bool = False) -> ChunkInfo:
        return await self._change(context, self._book(context).tag, ref, tags, remove)

    async def delete(self, context: str, refs: Sequence[str]) -> tuple[str, ...]:
        return await self._change(context, self._book(context).delete, refs)

    async def clear(self, context: str, scope: str) -> None:
        await self._change(context, self._book(context).clear, scope)

    async def plan(self, context: str, messages: Sequence[Message], promptness: Promptness) -> Plan:
        book = self._book(context)
        return await self._do(lambda: book.plan(book.prompt(messages, self._in_system), self._speed))

    async def populate(self, context: str, refs: Sequence[str] | None = None) -> Plan:
        """A prefix cache knows one order: whatever the refs, the whole active composition is warmed."""
        book = self._book(context)
        plan = await self._do(lambda: book.plan(book.prompt(), self._speed))
        self._kept_warm.add(context)
        await self._warmer.want(context)
        return plan

    async def stop_populating(self, context: str) -> None:
        self._kept_warm.discard(context)
        await self._warmer.forget(context)

    async def prompt(self, context: str, messages: Sequence[Message], promptness: Promptness) -> str:
        """With the control tokens where the server tells them."""
        prompt = await self._do(self._book(context).prompt, messages, self._in_system)
        return await self._server.render(list(prompt.messages), self._served)

    # -- answering -------------------------------------------------------------------------------------------------

    async def chat(self, context: str, turn: Turn) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
        fields = {"temperature": 0.0, **self._sampling(turn.sampling)}
        async with self._warmer.hold(), self._turns():
            try:
                async with aclosing(self._answer(context, turn.messages, fields)) as items:
                    async for item in items:
                        yield item
            except RemoteEngineError as error:
                if not self._learn_layout(error):
                    raise
                async with aclosing(self._answer(context, turn.messages, fields)) as items:
                    async for item in items:
                        yield item

    async def _answer(
        self, context: str, messages: Sequence[Message], fields: dict[str, Any]
    ) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
        book = self._book(context)
        prompt = await self._do(book.prompt, messages, self._in_system)
        await self._do(book.plan, prompt, self._speed)  # refuses one that is known to be too long
        answer = Answer(prompt, book.reused(prompt))
        async with aclosing(self._ask(context, prompt, fields)) as stream:
            async for item in stream:
                answer.take(item)
                if isinstance(item, AnswerPiece):
                    yield item
        self._learn(answer)
        self._kept_warm.add(context)
        self._warmer.want_soon(context)
        output = await self._do(book.keep_answer, answer.text)
        self._publish(ChunksChanged(context))
        plans = chunk_plans(prompt, book.reused(prompt, answer.reused_tokens), used=True)
        yield AnswerEnd(answer.stop_reason, answer.usage, answer.timing(), plans, output)

    async def _ask(
        self, context: str, prompt: Prompt, fields: dict[str, Any]
    ) -> AsyncGenerator[AnswerPiece | Tally, None]:
        """Sends a prompt, and keeps account of what the server has computed."""
        book, answer, computed = self._book(context), "", False
        body = {"model": self._served.name, "messages": list(prompt.messages), **fields}
        if self._served.is_llama_server:
            body["return_progress"] = True
        try:
            async with aclosing(self._server.complete(body)) as stream:
                async for item in stream:
                    if isinstance(item, AnswerPiece):
                        answer += item.text if item.kind == "answer" else ""
                    elif item.progress is not None:
                        self._publish(PopulateProgress(context, *prompt.scaled(*item.progress)))
                    computed = computed or isinstance(item, AnswerPiece) or item.finish is not None
                    yield item
        except RemoteEngineError:
            raise  # a prompt that was refused was not computed
        except BaseException:
            if not computed:
                book.broke_off(prompt)
            raise
        finally:
            if computed:
                book.saw(prompt, answer)

    def _turns(self) -> AbstractAsyncContextManager[Any]:
        """Where other requests break answers off, one question waits for the other."""
        return self._one_by_one if self._served.breaks_off else nullcontext()

    def _learn(self, answer: Answer) -> None:
        self._speed = answer.speed() or self._speed
        self._counter.learn(answer.prompt.content, answer.usage.prompt_tokens)

    def _learn_layout(self, error: RemoteEngineError) -> bool:
        """Whether the model has no system messages, so that the same must be asked without."""
        learnt = self._in_system and refuses_system(error)
        self._in_system = self._in_system and not learnt
        return learnt

    def _sampling(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """llama.cpp has a name of its own for one of them."""
        theirs = {"repetition_penalty": "repeat_penalty"} if self._served.owner in ("llamacpp", "me") else {}
        return {theirs.get(name, name): value for name, value in sampling.items()}

    # -- warming ---------------------------------------------------------------------------------------------------

    async def _warm(self, context: str) -> None:
        """Lets the server compute the active composition, by asking it for one token behind it."""
        try:
            await self._warm_as_laid_out(context)
        except RemoteEngineError as error:
            if self._learn_layout(error):
                return await self._warm(context)
            self._publish(PopulateFailed(context, error.code, error.message))
        except EngineError as error:
            self._publish(PopulateFailed(context, error.code, error.message))

    async def _warm_as_laid_out(self, context: str) -> None:
        book = self._book(context)
        prompt = await self._do(book.prompt, [_WARMING], self._in_system)
        reused = book.reused(prompt)
        if any(plan.prefill for plan in chunk_plans(prompt, reused)):
            self._publish(PopulateProgress(context, sum(reused), prompt.tokens))
            await self._ask_for_one(context, prompt, reused)
            self._publish(ChunksChanged(context))
        self._publish(PopulateProgress(context, prompt.tokens, prompt.tokens))

    async def _ask_for_one(self, context: str, prompt: Prompt, reused: Sequence[int]) -> None:
        answer, self._warming = Answer(prompt, reused), prompt.text
        try:
            async with aclosing(self._ask(context, prompt, {"temperature": 0.0, "max_tokens": 1})) as stream:
                async for item in stream:
                    answer.take(item)
        finally:
            self._warming = None
        self._learn(answer)

    async def _is_warming(self, context: str) -> bool:
        try:
            prompt = await self._do(self._book(context).prompt, [_WARMING], self._in_system)
        except EngineError:
            return False  # warming it anew will tell
        return prompt.text == self._warming

    # -- events ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def events(self, context: str) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        mailbox: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._mailboxes.setdefault(context, []).append(mailbox)
        try:
            yield self._deliver(mailbox)
        finally:
            self._mailboxes[context].remove(mailbox)

    async def _deliver(self, mailbox: asyncio.Queue[EngineEvent]) -> AsyncIterator[EngineEvent]:
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    event = await mailbox.get()
            except TimeoutError:
                if not await self._server.is_alive():
                    raise EngineLostError(f"{self._server.url} does not answer any more") from None
            else:
                yield event

    def _publish(self, event: EngineEvent) -> None:
        for mailbox in self._mailboxes.get(event.context, ()):
            mailbox.put_nowait(event)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _book(self, context: str) -> ContextBook:
        if context not in self._books:
            raise RemoteEngineError(UnknownContextError.code, f"there is no context {context!r}")
        return self._books[context]

    async def _change(self, context: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result = await self._do(call, *args, **kwargs)
        if context in self._kept_warm:
            self._warmer.want_soon(context)
        self._publish(ChunksChanged(context))
        return result

    async def _do(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise EngineLostError(f"the connection to {self._server.url} was closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *args, **kwargs))
        except (EngineLostError, RemoteEngineError):
            raise
        except EngineError as error:
            raise RemoteEngineError(error.code, error.message, error.data) from error
