"""EngineState: everything the engine's one lock guards, shared by the facade's classes. No work is done here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from engine.context_manager import ContextManager
from engine.errors import ContextFullError, EngineBusyError
from engine.kv.segment_store import SegmentStore
from engine.model import LoadedModel
from engine.prompt import PromptBuilder
from engine.runtime.scheduler import Scheduler
from engine.types import ChunksChanged, EngineEvent


@dataclass(eq=False)
class EngineState:
    """Attributes:
    model, builder, max_context: fixed.
    changed: its lock guards all the rest; notified whenever the worker or a waiter may have something to do.
    contexts: by id.
    """

    model: LoadedModel
    builder: PromptBuilder
    changed: threading.Condition
    store: SegmentStore = field(init=False)
    scheduler: Scheduler = field(init=False)
    contexts: dict[str, ContextManager] = field(default_factory=dict)
    subscribers: list[Callable[[EngineEvent], None]] = field(default_factory=list)
    closed: bool = False

    @property
    def max_context(self) -> int:
        return self.model.max_context

    def check_open(self) -> None:
        """EngineBusyError once the engine is closed."""
        if self.closed:
            raise EngineBusyError("The engine has stopped; start it again.")

    def check_fits(self, tokens: int, what: str = "The prompt has") -> None:
        """ContextFullError if so many tokens leave no room for an answer."""
        if tokens >= self.max_context:
            raise ContextFullError(
                f"{what} {tokens} tokens, and the context window holds {self.max_context} with the answer: "
                "deactivate some chunks, or start the engine with a larger max_context.",
                needed=tokens + 1,
                limit=self.max_context,
            )

    def publish(self, event: EngineEvent) -> None:
        """Tell every subscriber. They don't block, and know that the lock is held."""
        for subscriber in list(self.subscribers):
            subscriber(event)

    def chunks_changed(self, manager: ContextManager) -> None:
        """Say that a context's chunks changed, and wake whoever waits."""
        self.publish(ChunksChanged(manager.id))
        self.changed.notify_all()

    def active_keys(self) -> Set[bytes]:
        """Keys of the segments that any context's next question would use: the last to be evicted."""
        keys: set[bytes] = set()
        for manager in self.contexts.values():
            pieces = manager.composition().pieces
            keys.update(piece.key for piece in pieces)
            near = manager.segment_keys
            keys.update(near[piece.chunk] for piece in pieces if piece.chunk is not None and piece.chunk in near)
        return keys
