"""Engine: the facade. Loads a model, keeps contexts, answers questions. Knows nothing of HTTP or LSP."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.answers import Answers
from engine.chat_stream import ChatStream
from engine.composition import Composition
from engine.config import EngineConfig, Fidelity, Order, SamplingParams
from engine.context import Context
from engine.context_manager import ContextManager
from engine.errors import EngineBusyError, EngineError, InvalidRequestError, UnknownContextError
from engine.hashing import token_array
from engine.kv.block_manager import BlockManager
from engine.kv.segment_store import SegmentStore
from engine.model import LoadedModel, Progress, load_model
from engine.prompt import PromptBuilder
from engine.repair import DEFAULT_REPAIR, Repair
from engine.runtime.forecast import Forecast
from engine.runtime.make_runner import make_runner
from engine.runtime.runner import Runner, can_give_up
from engine.runtime.sampler import Sampler
from engine.runtime.scheduler import Scheduler
from engine.runtime.speculation import Speculation
from engine.runtime.upkeep import Upkeep
from engine.runtime.worker import Worker
from engine.speed_file import speed_file
from engine.state import EngineState
from engine.types import EngineEvent, Message, PopulateFailed

__all__ = ["Context", "Engine", "EngineStats"]


@dataclass(frozen=True)
class EngineStats:
    """Counters since the start, and what is under way now; a block holds `block_size` tokens.

    Of `tokens_drafted`, guessed from what had been there and then verified, `tokens_accepted` were right; these are
    among the decoded ones.
    """

    tokens_prefilled: int
    tokens_decoded: int
    tokens_drafted: int
    tokens_accepted: int
    kv_tokens_written: int
    steps: int
    running: int
    queued: int
    upkeep: int
    contexts: int
    segments: int
    blocks_used: int
    blocks_total: int
    block_size: int


class Engine:
    """A model, its KV and its contexts. Thread-safe.

    Attributes:
        config: as given.
        model_name: `config.model`.
        max_context: longest prompt plus answer, tokens.
        device, dtype: what it computes on and in, e.g. ``cpu`` and ``float32``.
        exact_only: why every question is answered as ``exact``, whatever it asks for; None for most models.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        progress: Progress | None = None,
        model: LoadedModel | None = None,
        repair: Repair = DEFAULT_REPAIR,
    ) -> None:
        """Load the model, which may mean fetching and converting it first, and start the worker.

        Args:
            progress: called with a sentence and a fraction (None while unknown) as loading goes on.
            repair: what is computed anew at the seams of near KV; another one only to measure it.
            model: taken instead of loading `config.model`; no other engine may use its pool at the same time.

        Raises:
            EngineError: the model can't be had or is not supported, or the device can't be used.
        """
        self.config = config or EngineConfig()
        self.model_name = self.config.model
        self._own_model = load_model(self.config, progress) if model is None else None
        model = model or self._own_model
        assert model is not None
        self.max_context = model.max_context
        self.device = str(model.device)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.exact_only = model.exact_only
        self._speed_file = speed_file(model)
        forecast = self._remembered_forecast(model)
        changed = threading.Condition(threading.RLock())
        state = EngineState(self.config, model, PromptBuilder(model.tokenizer), repair, changed, forecast)
        answers = Answers(state)
        state.store = self._made_store(model, state)
        # a state can't be gone back to when a draft proves wrong
        self._speculation = Speculation() if self.config.speculation and not model.stateful else None
        state.scheduler = Scheduler(
            forecast.slices,
            self.config.max_batch,
            finish=answers.finish,
            fail=answers.fail,
            progressed=state.publish,
            upkeep_failed=self._upkeep_failed,
            speculation=self._speculation,
        )
        self._state, self._answers = state, answers
        self._runner = self._made_runner(model, progress)
        self._worker = Worker(state.scheduler, self._runner, Sampler(), forecast, state.changed, self._speculation)
        self._worker.start()
        if model.followers is not None:
            atexit.register(self.close)  # NCCL waits for captured graphs, so they must go in the right order

    def _made_store(self, model: LoadedModel, state: EngineState) -> SegmentStore:
        return SegmentStore(
            BlockManager(model.pool.num_blocks),
            self.config.block_size,
            state.active_keys,
            stateful=model.stateful,
            # a GPU computes a few tokens more in no more time
            copy=model.pool.copy if model.device.type == "cpu" and model.followers is None else None,
        )

    def _made_runner(self, model: LoadedModel, progress: Progress | None) -> Runner:
        try:
            return make_runner(model, progress)
        except BaseException:
            self._end_own_model()
            raise

    def _end_own_model(self) -> None:
        if self._own_model is not None:
            self._own_model.close()

    def _remembered_forecast(self, model: LoadedModel) -> Forecast:
        """What earlier runs have learned of this model's speed here, if anything."""
        interruptible = model.followers is None and can_give_up(model.decoder, model.device)
        forecast = Forecast(self.config.slice_tokens, interruptible=interruptible)
        if self._speed_file is not None:
            forecast.load(self._speed_file)
        return forecast

    # -- contexts --------------------------------------------------------------------------------------------------

    def context(self, id: str = "default", *, instructions: str | None = None, order: Order | None = None) -> Context:
        """The context called `id`, made if need be.

        `instructions`, if given, become its system message's text; `order` says where an edited chunk goes: to the
        end (`recency`, as at first) or nowhere (`fixed`).
        """
        if not isinstance(id, str) or not id:
            raise InvalidRequestError("A context's id must be a non-empty string.")
        if order not in (None, "recency", "fixed"):
            raise InvalidRequestError(f"order must be 'recency' or 'fixed', not {order!r}.")
        state = self._state
        with state.changed:
            state.check_open()
            manager = state.contexts.get(id)
            if manager is None:
                manager = ContextManager(id, state.builder, state.model.fingerprint, instructions)
                state.contexts[id] = manager
            elif instructions is not None:
                manager.set_instructions(instructions)
            if order is not None:
                manager.set_order(order)
        return Context(state, self._answers, manager)

    def get_context(self, id: str) -> Context:
        """The context called `id`; UnknownContextError if there is none."""
        return Context(self._state, self._answers, self._manager(id))

    def _manager(self, id: str) -> ContextManager:
        with self._state.changed:
            if id not in self._state.contexts:
                raise UnknownContextError(f"There is no context {id!r}: create it first.", context=id)
            return self._state.contexts[id]

    def contexts(self) -> list[str]:
        """The ids of all contexts."""
        with self._state.changed:
            return list(self._state.contexts)

    def drop_context(self, id: str) -> None:
        """Forget a context and its chunks; answers under way in it go on. Its KV stays as long as there is room."""
        with self._state.changed:
            self._state.scheduler.drop_upkeep(self._manager(id))
            del self._state.contexts[id]
            self._state.changed.notify_all()

    # -- asking ----------------------------------------------------------------------------------------------------

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *, fidelity: Fidelity = "auto"
    ) -> ChatStream:
        """Answer a conversation that has no context; otherwise as `Context.chat`."""
        state = self._state
        with state.changed:
            tail = token_array(state.builder.plain(messages))
            return self._answers.ask(None, Composition(state.model.fingerprint), tail, params, fidelity)

    # -- watching --------------------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        """Call `callback` with every event until the returned function is called.

        It runs on the engine's threads with the engine's lock held: it must be quick and never block.
        """
        subscribers = self._state.subscribers
        with self._state.changed:
            subscribers.append(callback)

        def unsubscribe() -> None:
            with self._state.changed:
                if callback in subscribers:
                    subscribers.remove(callback)

        return unsubscribe

    def _upkeep_failed(self, upkeep: Upkeep, error: EngineError) -> None:
        self._state.publish(PopulateFailed(upkeep.context.id, error.code, error.message))

    def stats(self) -> EngineStats:
        """Counters, all read at one moment."""
        state, worker, speculation = self._state, self._worker, self._speculation
        with state.changed:
            return EngineStats(
                tokens_prefilled=worker.tokens_prefilled,
                tokens_decoded=worker.tokens_decoded,
                tokens_drafted=speculation.drafted if speculation else 0,
                tokens_accepted=speculation.accepted if speculation else 0,
                kv_tokens_written=state.model.pool.tokens_written,
                steps=worker.steps,
                running=len(state.scheduler.running),
                queued=len(state.scheduler.questions),
                upkeep=len(state.scheduler.upkeep),
                contexts=len(state.contexts),
                segments=len(state.store),
                blocks_used=state.store.blocks.total - state.store.blocks.free,
                blocks_total=state.store.blocks.total,
                block_size=state.store.block_size,
            )

    def check_integrity(self) -> None:
        """Assert every invariant of the engine's bookkeeping; for tests, at any moment."""
        with self._state.changed:
            self._state.store.check_integrity(pins=self._state.scheduler.pins())
            for manager in self._state.contexts.values():
                manager.check_integrity()

    def close(self) -> None:
        """Stop: what is under way fails with EngineBusyError. Idempotent."""
        with self._state.changed:
            self._state.closed = True
            self._state.scheduler.drop_all(EngineBusyError("The engine has stopped."))
            self._state.changed.notify_all()
        self._worker.stop()
        atexit.unregister(self.close)
        self._runner.close()
        self._end_own_model()
        if self._speed_file is not None and self._state.forecast.observations:
            self._state.forecast.save(self._speed_file)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
