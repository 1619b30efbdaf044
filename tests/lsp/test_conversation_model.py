"""Two servers' conversations over one folder, in any order of events, against a model: a dict of lists."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctx_lsp.chat.conversation import UnknownConversationError, UnknownTurnError
from ctx_lsp.chat.conversation_store import ConversationStore
from ctx_lsp.chat.conversations import Conversations
from ctx_lsp.protocol import ChatTurn, Usage

Step = tuple[str, int, str, int]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "replace", "fail", "fork", "rename", "delete", "restart", "ask deleted"]),
        st.integers(0, 1),
        st.sampled_from(["a", "b"]),
        st.integers(0, 4),
    ),
    max_size=25,
)


def turn(number: int) -> ChatTurn:
    usage = Usage(prompt_tokens=1, reused_tokens=0, prefilled_tokens=1, completion_tokens=1)
    return ChatTurn(turn_id=f"t{number}", question=f"q{number}", answer="a", stop_reason="stop", usage=usage, asked="")


class Model:
    """What every conversation should hold, and the servers that should know it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked = 0
        self.warnings: list[str] = []
        self.turns: dict[str, list[str]] = {}
        self.titles: dict[str, str] = {}
        self.servers = [self.start(), self.start()]

    def start(self) -> Conversations:
        return Conversations(ConversationStore(self._folder, self.warnings.append), self.warnings.append)

    async def step(self, action: str, server: int, id: str, number: int) -> None:
        conversations, known = self.servers[server], self.turns.get(id)
        match action:
            case "ask" | "fail" | "ask deleted":
                await self._ask(conversations, id, None, action)
            case "replace" if known:
                await self._ask(conversations, id, known[number % len(known)], action)
            case "fork" if known:
                await self._fork(conversations, id, known[number % len(known)])
            case "rename":
                await self._rename(conversations, id, f"title {number}")
            case "delete":
                await self._delete(conversations, id)
            case "restart":
                self.servers[server] = self.start()

    async def check(self) -> None:
        for conversations in self.servers:
            listed = {info.conversation_id: info for info in await conversations.list()}
            assert {id: info.turns for id, info in listed.items()} == {id: len(t) for id, t in self.turns.items()}
            for id, turns in self.turns.items():
                conversation = await conversations.get(id)
                assert [one.turn_id for one in conversation.turns] == turns
                assert conversation.info == listed[id]
                assert conversation.title == self.titles.get(id, "")
        assert not self.warnings

    async def _ask(self, conversations: Conversations, id: str, replaced: str | None, action: str) -> None:
        self._asked += 1
        with suppress(ConnectionError):
            async with conversations.turn(id) as running:
                before = running.conversation.before(replaced)
                if action == "fail":
                    raise ConnectionError
                if action == "ask deleted":
                    await conversations.forget(id)
                    self.turns.pop(id, None)
                    self.titles.pop(id, None)
                await conversations.keep(running, (*before, turn(self._asked)))
                if action != "ask deleted":
                    self.turns[id] = [*(one.turn_id for one in before), f"t{self._asked}"]

    async def _fork(self, conversations: Conversations, id: str, turn_id: str) -> None:
        fork = await conversations.fork(id, turn_id)
        turns = self.turns[id]
        self.turns[fork.id] = turns[: turns.index(turn_id) + 1]
        if id in self.titles:
            self.titles[fork.id] = self.titles[id]

    async def _rename(self, conversations: Conversations, id: str, title: str) -> None:
        try:
            await conversations.rename(id, title)
        except UnknownConversationError:
            assert id not in self.turns
        else:
            self.titles[id] = title

    async def _delete(self, conversations: Conversations, id: str) -> None:
        try:
            await conversations.delete(id)
        except UnknownConversationError:
            assert id not in self.turns
        else:
            del self.turns[id]
            self.titles.pop(id, None)


@settings(deadline=None, max_examples=40)
@given(STEPS)
def test_every_server_knows_what_every_one_did(steps: Sequence[Step]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            model = Model(Path(folder) / "conversations")
            for step in steps:
                await model.step(*step)
                await model.check()

    asyncio.run(play())


async def test_a_turn_of_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    model = Model(tmp_path)
    await model.step("ask", 0, "a", 0)
    conversation = await model.servers[0].get("a")
    for look in (conversation.turn, conversation.before):
        with pytest.raises(UnknownTurnError) as caught:
            look("t9")
        assert caught.value.data == {"turnId": "t9"}
