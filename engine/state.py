"""EngineState: everything the engine's one lock guards, shared by the facade's classes. No work is done here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from engine.composition import Composition
from engine.config import EngineConfig, Fidelity
from engine.context_manager import ContextManager
from engine.errors import ContextFullError, EngineBusyError
from engine.hashing import TokenArray
from engine.kv.segment_store import SegmentStore
from engine.model import LoadedModel
from engine.outlook import Outlook, look_ahead
from engine.prompt import PromptBuilder
from engine.repair import Repair, plan_repairs
from engine.reuse import NearKV
from engine.runtime.forecast import Forecast
from engine.runtime.scheduler import Scheduler
from engine.runtime.upkeep import Upkeep
from engine.types import ChunksChanged, EngineEvent


@dataclass(eq=False)
class EngineState:
    """Attributes:
    config, model, builder, repair, max_context: fixed.
    forecast: how long prefills take.
    changed: its lock guards all the rest; notified whenever the worker or a waiter may have something to do.
    contexts: by id.
    """

    config: EngineConfig
    model: LoadedModel
    builder: PromptBuilder
    repair: Repair
    changed: threading.Condition
    forecast: Forecast
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
        """Say that a context's chunks changed, see to their KV if that is wanted, and wake whoever waits."""
        self.publish(ChunksChanged(manager.id))
        self.keep_up(manager)
        self.changed.notify_all()

    def keep_up(self, manager: ContextManager) -> None:
        """See to it that the active composition becomes exact in the background, if its context is to be kept up."""
        lives = self.contexts.get(manager.id) is manager and not self.closed
        if not (self.config.refine and lives and manager.kept_up) or manager.upheld == manager.composition().key:
            return
        self.populate(manager)

    def populate(self, manager: ContextManager) -> None:
        """Make the active composition exact in the background."""
        if not any(upkeep.follows(manager) for upkeep in self.scheduler.upkeep):
            self.scheduler.upkeep.append(self.upkeep(manager))

    def upkeep(self, manager: ContextManager, chosen: Composition | None = None) -> Upkeep:
        """Background work on a context, or on a composition chosen from its chunks."""
        return Upkeep(
            manager,
            self.store,
            lambda found: self.near(manager, found, 0.0),
            self.check_fits,
            lambda settled: self.publish(ChunksChanged(settled.id)),
            chosen,
        )

    def near(self, manager: ContextManager, composition: Composition, budget: float | None) -> NearKV | None:
        """What may be used besides exact KV, and what of it is computed anew; None where the model allows nothing else.

        `budget`: seconds that may go into chunks brought in from elsewhere; None takes as many as make the KV safe.
        """
        if self.model.exact_only is not None:
            return None
        tokens = None if budget is None else self.forecast.tokens_within(budget, composition.tokens)
        repairs = plan_repairs(self.store, composition, manager.kv, manager.versions(), self.repair, tokens)
        return NearKV(manager.kv, repairs, self.repair)

    def outlook(
        self,
        manager: ContextManager,
        composition: Composition,
        tail: TokenArray,
        fidelity: Fidelity,
        budget: float | None,
    ) -> Outlook:
        """How a question behind `composition` would be answered now; `budget` in seconds, None takes the engine's."""
        budget = self.config.latency_budget if budget is None else budget
        near = self.near(manager, composition, budget)
        if fidelity == "auto" and near is not None and not near.repairs.safe:
            near = self.near(manager, composition, None)
        return look_ahead(self.store, self.forecast, composition, tail, near, fidelity, budget)

    def active_keys(self) -> Set[bytes]:
        """Keys of the segments that any context's next question would use: the last to be evicted."""
        keys: set[bytes] = set()
        for manager in self.contexts.values():
            for piece in manager.composition().pieces:
                keys.add(piece.key)
                if piece.chunk in manager.kv:
                    keys.update(span.key for span in manager.kv[piece.chunk].spans)
        return keys
