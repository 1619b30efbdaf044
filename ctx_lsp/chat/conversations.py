"""All conversations of a workspace, and who may change which when.

Knows the store and what lives only in memory; knows nothing of questions or engines.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from ctx_lsp.chat.conversation import Conversation, UnknownConversationError
from ctx_lsp.chat.conversation_store import ConversationStore
from ctx_lsp.protocol import DEFAULT_CONVERSATION, ChatTurn, ConversationInfo

T = TypeVar("T")

_POLL_SECONDS = 0.1


@dataclass
class OpenTurn:
    """The conversation as a running turn found it. `forgotten` once it was deleted meanwhile."""

    conversation: Conversation
    forgotten: bool = False


class Conversations:
    """Turns of one conversation run one after the other, also those of other servers.

    The conversation `default` lives as long as this server; every other one is in the store, and read from there each
    time, for another server may have changed it.

    Invariants: `_memory` holds the default conversation and what could not be written; `_open` the turns that run;
    nothing is written but under `_writing`.
    """

    def __init__(self, store: ConversationStore, warn: Callable[[str], None]) -> None:
        self._store = store
        self._warn = warn
        self._memory = {DEFAULT_CONVERSATION: Conversation(DEFAULT_CONVERSATION)}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._open: dict[str, OpenTurn] = {}
        self._writing = asyncio.Lock()

    async def list(self) -> tuple[ConversationInfo, ...]:
        """Those in which something was asked; what last changed comes first."""
        stored = {info.conversation_id: info for info in await asyncio.to_thread(self._store.list)}
        kept = {id: conversation.info for id, conversation in self._memory.items() if conversation.turns}
        return tuple(sorted((stored | kept).values(), key=lambda info: info.updated, reverse=True))

    async def get(self, id: str) -> Conversation:
        """Raises UnknownConversationError."""
        conversation = await self._find(id)
        if conversation is None:
            raise UnknownConversationError(f'there is no conversation "{id}"', conversationId=id)
        return conversation

    async def peek(self, id: str) -> Conversation:
        """The same, and an empty one where nothing was asked yet."""
        return await self._find(id) or Conversation(id)

    @asynccontextmanager
    async def turn(self, id: str) -> AsyncIterator[OpenTurn]:
        """Waits until the conversation is free and holds it. What comes of the turn is to be given to `keep`."""
        lock = self._locks.setdefault(id, asyncio.Lock())
        async with lock, self._across_servers(id):
            self._open[id] = OpenTurn(await self.peek(id))
            try:
                yield self._open[id]
            finally:
                del self._open[id]

    async def keep(self, turn: OpenTurn, turns: tuple[ChatTurn, ...]) -> None:
        """What the conversation's turns are now. One that was deleted meanwhile stays deleted.

        A cancellation that comes now comes too late.
        """
        await _uninterrupted(self._keep(turn, turns))

    async def fork(self, id: str, turn_id: str | None) -> Conversation:
        """Raises UnknownConversationError or UnknownTurnError."""
        fork = (await self.get(id)).forked(uuid.uuid4().hex, turn_id)
        async with self._writing:
            await self._put(fork)
        return fork

    async def rename(self, id: str, title: str) -> Conversation:
        """Raises UnknownConversationError."""
        async with self._writing:
            renamed = (await self.get(id)).renamed(title)
            await self._put(renamed)
        return renamed

    async def delete(self, id: str) -> Conversation:
        """Raises UnknownConversationError. A turn that is running goes on, and is not kept."""
        async with self._writing:
            conversation = await self.get(id)
            await self._forget(id)
        return conversation

    async def forget(self, id: str) -> None:
        """Starts a conversation over, whether there is one or not."""
        async with self._writing:
            await self._forget(id)

    async def _forget(self, id: str) -> None:
        if id in self._open:
            self._open[id].forgotten = True
        self._memory.pop(id, None)
        if id == DEFAULT_CONVERSATION:
            self._memory[id] = Conversation(id)
        else:
            await asyncio.to_thread(self._store.delete, id)

    async def _keep(self, turn: OpenTurn, turns: tuple[ChatTurn, ...]) -> None:
        async with self._writing:
            latest = await self._find(turn.conversation.id)
            if turn.forgotten or (latest is None and turn.conversation.turns):
                return
            await self._put((latest or turn.conversation).with_turns(turns))

    async def _find(self, id: str) -> Conversation | None:
        return self._memory.get(id) or await asyncio.to_thread(self._store.load, id)

    async def _put(self, conversation: Conversation) -> None:
        if conversation.id == DEFAULT_CONVERSATION:
            self._memory[conversation.id] = conversation
            return
        try:
            await asyncio.to_thread(self._store.save, conversation)
            self._memory.pop(conversation.id, None)
        except OSError as error:
            if conversation.id not in self._memory:
                self._warn(f"the conversation is not kept beyond this session, for it can't be written: {error}")
            self._memory[conversation.id] = conversation

    @asynccontextmanager
    async def _across_servers(self, id: str) -> AsyncIterator[None]:
        if id == DEFAULT_CONVERSATION:
            yield
            return
        lock = await asyncio.to_thread(self._file_lock, id)
        try:
            while lock is not None and not await asyncio.to_thread(_acquired, lock):
                await asyncio.sleep(_POLL_SECONDS)
            yield
        finally:
            if lock is not None:
                lock.release()

    def _file_lock(self, id: str) -> FileLock | None:
        """None where nothing can be written: there is nothing to guard then."""
        try:
            return self._store.lock(id)
        except OSError:
            return None


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError:
        return True  # as where there is no lock
    return True


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Does the work to its end, and takes back a cancellation that came meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if (current := asyncio.current_task()) is not None:
                current.uncancel()
    return task.result()
