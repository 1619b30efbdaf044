"""A conversation as a value: its turns, and what asking anew, forking and renaming make of it.

Pure. Knows nothing of where conversations are kept or how a question is answered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ctx_lsp.protocol import ChatTurn, ConversationInfo
from engine.errors import EngineError

_TITLE_LENGTH = 60


class UnknownConversationError(EngineError):
    """No conversation has this id."""

    code = "unknown_conversation"
    status = 404


class UnknownTurnError(EngineError):
    """The conversation has no turn of this id."""

    code = "unknown_turn"
    status = 404


@dataclass(frozen=True)
class Conversation:
    """Turns that were answered to their end, oldest first.

    Attributes:
        title: as the user named it; empty, the first question stands for it.
        updated: ISO 8601; empty where nothing was asked yet.
    """

    id: str
    title: str = ""
    turns: tuple[ChatTurn, ...] = ()
    updated: str = ""

    @property
    def info(self) -> ConversationInfo:
        title = self.title or (_shortened(self.turns[0].question) if self.turns else "")
        return ConversationInfo(conversation_id=self.id, title=title, turns=len(self.turns), updated=self.updated)

    def turn(self, turn_id: str) -> ChatTurn:
        """The latest turn of this id. Raises UnknownTurnError."""
        return self.turns[self._index(turn_id)]

    def before(self, turn_id: str | None) -> tuple[ChatTurn, ...]:
        """What was said before a turn; everything, where none is named. Raises UnknownTurnError."""
        return self.turns if turn_id is None else self.turns[: self._index(turn_id)]

    def with_turns(self, turns: tuple[ChatTurn, ...]) -> Conversation:
        return replace(self, turns=turns, updated=now())

    def renamed(self, title: str) -> Conversation:
        return replace(self, title=title, updated=now())

    def forked(self, id: str, turn_id: str | None) -> Conversation:
        """Another conversation that begins with the turns up to this one. Raises UnknownTurnError."""
        turns = self.turns if turn_id is None else self.turns[: self._index(turn_id) + 1]
        return replace(self, id=id, turns=turns, updated=now())

    def _index(self, turn_id: str) -> int:
        for index in reversed(range(len(self.turns))):
            if self.turns[index].turn_id == turn_id:
                return index
        raise UnknownTurnError(f'the conversation "{self.id}" has no turn "{turn_id}"', turnId=turn_id)


def now() -> str:
    """ISO 8601 in UTC, which sorts as time does."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _shortened(question: str) -> str:
    title = " ".join(question.split())
    return title if len(title) <= _TITLE_LENGTH else title[: _TITLE_LENGTH - 1].rstrip() + "…"
