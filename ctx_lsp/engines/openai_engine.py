"""An `EngineClient` for any server of OpenAI's API: the context is kept here, the server's prefix cache is kept warm.

Active chunks stand in a stable order at the beginning of every prompt, and requests for a single token let the server
compute them ahead of the question. Knows when something is asked; how is `openai_asking`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, ParamSpec, TypeVar

from ctx_lsp.engines.client import AnswerEnd, AnswerPiece, EngineLostError, Health, Promptness, RemoteEngineError, Turn
from ctx_lsp.engines.context_book import ContextBook, chunk_plans
from ctx_lsp.engines.context_books import ContextBooks
from ctx_lsp.engines.mailboxes import Mailbox, Mailboxes
from ctx_lsp.engines.openai_answer import Answer
from ctx_lsp.engines.openai_asking import Asking
from ctx_lsp.engines.openai_errors import ServerLoadingError
from ctx_lsp.engines.openai_prompt import Prompt
from ctx_lsp.engines.openai_server import OpenAIServer
from ctx_lsp.engines.prefix_warmer import PrefixWarmer
from ctx_lsp.engines.token_counter import TokenCounter
from ctx_lsp.protocol import ChunkInfo, ChunksResult, Order, Plan
from engine.errors import EngineError
from engine.types import ChunksChanged, EngineEvent, Message, PopulateFailed, PopulateProgress

P = ParamSpec("P")
T = TypeVar("T")

ASSUMED_LIMIT = 8192  # where neither the server nor the options tell
_HEARTBEAT_SECONDS = 15.0
_WARMING = Message(role="user", content="Ready?")  # templates want a question


class OpenAIEngine:
    """One server. `health` must have said ``ready`` before anything else is asked.

    Invariants: `_kept_warm` holds the contexts that are warmed again whenever they change; `_warming` is the text of
    the prompt with which that is being done.
    """

    def __init__(self, server: OpenAIServer, model: str | None, max_context: int | None) -> None:
        self._server = server
        self._wanted = model
        self._max_context = max_context
        self._asking: Asking | None = None
        self._books = ContextBooks()
        self._mailboxes = Mailboxes()
        self._warmer = PrefixWarmer(self._warm, self._is_warming)
        self._kept_warm: set[str] = set()
        self._warming: str | None = None
        self._one_by_one = asyncio.Lock()

    async def close(self) -> None:
        await self._warmer.close()
        self._books.close()
        await self._server.close()

    async def health(self) -> Health:
        """Finds out what is served, and how it counts."""
        try:
            model = await self._server.find_model(self._wanted)
        except ServerLoadingError as error:
            return Health("loading", error.message, None, self._wanted or "", None, None, None)
        counter = TokenCounter(await asyncio.to_thread(self._server.token_counter, model))
        self._asking = Asking(self._server, model, counter)
        return Health("ready", "ready", None, model.name, self._server.url, self._limit(), None)

    async def stats(self) -> None:
        """No server of OpenAI's API tells how it is doing in a way that all share."""

    def _limit(self) -> int:
        told = [limit for limit in (self._model.model.limit, self._max_context) if limit is not None]
        return min(told, default=ASSUMED_LIMIT)

    @property
    def _model(self) -> Asking:
        assert self._asking is not None, "health comes first"
        return self._asking

    # -- contexts --------------------------------------------------------------------------------------------------

    async def create_context(self, context: str, instructions: str | None, order: Order) -> ChunksResult:
        book = self._books.open(context, lambda: ContextBook(self._model.counter, self._limit()))
        await self._books.do(book.configure, instructions, order)
        return await self.describe_context(context)

    async def describe_context(self, context: str) -> ChunksResult:
        return await self._books.do(self._books.get(context).describe)

    async def drop_context(self, context: str) -> None:
        await self.stop_populating(context)
        self._books.drop(context)

    async def add_chunk(self, context: str, text: str, source: str, **fields: Any) -> ChunkInfo:
        return await self._change(context, self._books.get(context).add, text, source, **fields)

    async def chunk_text(self, context: str, hash: str) -> str:
        return await self._books.do(self._books.get(context).text, hash)

    async def remove_source(self, context: str, source: str) -> None:
        await self._change(context, self._books.get(context).remove_source, source)

    async def set_active(self, context: str, refs: Sequence[str], active: bool) -> tuple[ChunkInfo, ...]:
        return await self._change(context, self._books.get(context).set_active, refs, active)

    async def set_pinned(self, context: str, refs: Sequence[str], pinned: bool) -> tuple[ChunkInfo, ...]:
        return await self._change(context, self._books.get(context).set_pinned, refs, pinned)

    async def compose(self, context: str, refs: Sequence[str], name: str) -> ChunkInfo:
        return await self._change(context, self._books.get(context).compose, refs, name)

    async def move(self, context: str, ref: str, position: int) -> None:
        await self._change(context, self._books.get(context).move, ref, position)

    async def tag(self, context: str, ref: str, tags: Sequence[str], *, remove: bool = False) -> ChunkInfo:
        return await self._change(context, self._books.get(context).tag, ref, tags, remove)

    async def delete(self, context: str, refs: Sequence[str]) -> tuple[str, ...]:
        return await self._change(context, self._books.get(context).delete, refs)

    async def clear(self, context: str, scope: str) -> None:
        await self._change(context, self._books.get(context).clear, scope)

    async def _change(self, context: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result = await self._books.do(call, *args, **kwargs)
        if context in self._kept_warm:
            self._warmer.want_soon(context)
        self._mailboxes.publish(ChunksChanged(context))
        return result

    # -- asking ----------------------------------------------------------------------------------------------------

    async def plan(self, context: str, messages: Sequence[Message], promptness: Promptness) -> Plan:
        book = self._books.get(context)
        return await self._books.do(lambda: book.plan(self._model.prompt(book, messages), self._model.speed))

    async def prompt(self, context: str, messages: Sequence[Message], promptness: Promptness) -> str:
        """With the control tokens where the server tells them."""
        prompt = await self._books.do(self._model.prompt, self._books.get(context), messages)
        return await self._server.render(list(prompt.messages), self._model.model)

    async def chat(self, context: str, turn: Turn) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
        async with self._warmer.hold(), self._turn():
            try:
                async with aclosing(self._answer(context, turn)) as items:
                    async for item in items:
                        yield item
            except RemoteEngineError as error:
                if not self._model.learn_layout(error):
                    raise
                async with aclosing(self._answer(context, turn)) as items:
                    async for item in items:
                        yield item

    def _turn(self) -> AbstractAsyncContextManager[Any]:
        """Where other requests break answers off, one question waits for the other."""
        return self._one_by_one if self._model.model.breaks_off else nullcontext()

    async def _answer(self, context: str, turn: Turn) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
        book = self._books.get(context)
        prompt = await self._books.do(self._model.prompt, book, turn.messages)
        await self._books.do(book.plan, prompt, None)  # refuses one that is known to be too long
        answer = Answer(prompt, book.reused(prompt))
        on_progress = partial(self._show_progress, context)
        async with aclosing(self._model.ask(book, answer, turn.sampling, on_progress)) as pieces:
            async for piece in pieces:
                yield piece
        self._kept_warm.add(context)
        output = await self._change(context, book.keep_answer, answer.text)
        plans = chunk_plans(prompt, answer.reused, used=True)
        yield AnswerEnd(answer.stop_reason, answer.usage, answer.timing(), plans, output)

    # -- warming ---------------------------------------------------------------------------------------------------

    async def populate(self, context: str, refs: Sequence[str] | None = None) -> Plan:
        """A prefix cache knows one order: whatever the refs, the whole active composition is warmed."""
        plan = await self.plan(context, (), Promptness("exact"))
        self._kept_warm.add(context)
        await self._warmer.want(context)
        return plan

    async def stop_populating(self, context: str) -> None:
        self._kept_warm.discard(context)
        await self._warmer.forget(context)

    async def _warm(self, context: str) -> None:
        """Lets the server compute the active composition, by asking it for one token behind it."""
        try:
            await self._warm_as_laid_out(context)
        except RemoteEngineError as error:
            if self._model.learn_layout(error):
                return await self._warm(context)
            self._mailboxes.publish(PopulateFailed(context, error.code, error.message))
        except EngineError as error:
            self._mailboxes.publish(PopulateFailed(context, error.code, error.message))

    async def _warm_as_laid_out(self, context: str) -> None:
        book, prompt = self._books.get(context), await self._warming_prompt(context)
        answer = Answer(prompt, book.reused(prompt))
        on_progress = partial(self._show_progress, context)
        if any(plan.prefill for plan in chunk_plans(prompt, answer.reused)):
            on_progress(sum(answer.reused), prompt.tokens)
            self._warming = prompt.text
            try:
                async with aclosing(self._model.ask(book, answer, {"max_tokens": 1}, on_progress)) as pieces:
                    async for _ in pieces:
                        pass
            finally:
                self._warming = None
            self._mailboxes.publish(ChunksChanged(context))
        on_progress(prompt.tokens, prompt.tokens)

    async def _is_warming(self, context: str) -> bool:
        try:
            return (await self._warming_prompt(context)).text == self._warming
        except EngineError:
            return False  # warming it anew will tell

    async def _warming_prompt(self, context: str) -> Prompt:
        return await self._books.do(self._model.prompt, self._books.get(context), [_WARMING])

    def _show_progress(self, context: str, done: int, total: int) -> None:
        self._mailboxes.publish(PopulateProgress(context, done, total))

    # -- events ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def events(self, context: str) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        with self._mailboxes.listen(context) as mailbox:
            yield self._deliver(mailbox)

    async def _deliver(self, mailbox: Mailbox) -> AsyncIterator[EngineEvent]:
        """Until the server doesn't answer any more, which nothing else would tell."""
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    event = await mailbox.get()
            except TimeoutError:
                if not await self._server.is_alive():
                    raise EngineLostError(f"{self._server.url} does not answer any more") from None
            else:
                yield event
