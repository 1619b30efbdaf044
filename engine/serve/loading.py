"""The engine while it comes to life: loading in a thread of its own, ready, failed, or closed.

Knows how to call a factory and what to say meanwhile; not what an engine does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from engine.errors import EngineBusyError, EngineError
from engine.serve.errors import EngineFailedError, EngineLoadingError
from engine.serve.stages import Stage, Stages, in_words

if TYPE_CHECKING:
    from engine.engine import Engine

logger = logging.getLogger(__name__)

Progress = Callable[[str, float | None], None]
EngineFactory = Callable[[Progress], "Engine"]
Status = Literal["loading", "ready", "failed", "stopped"]


@dataclass(frozen=True)
class Health:
    """What /health says of the engine.

    `progress` is a fraction of the step that `message` names, or None; `exact_only` says why every question is answered
    as ``exact``, None for most models. `stages` are those of its start that are over.
    """

    status: Status
    message: str
    progress: float | None
    model: str
    device: str | None = None
    dtype: str | None = None
    max_context: int | None = None
    exact_only: str | None = None
    stages: tuple[Stage, ...] = ()


class EngineHost:
    """Owns the engine of this process. All methods are thread-safe and quick, but for `close`.

    Invariants: `_health.status` is ``ready`` if and only if `_engine` is set. It goes from loading to ready or
    failed, and from any of them to stopped, never back; an engine that arrives after `close` is closed at once.
    """

    def __init__(self, factory: EngineFactory, model: str, *, age: float = 0.0) -> None:
        """`factory` builds the engine (slow); `model` is what to call it until it is there.

        `age` is how many seconds ago the process began.
        """
        self._factory = factory
        self._lock = threading.Lock()
        self._health = Health("loading", "starting", None, model)
        self._stages = Stages("starting", age)
        self._engine: Engine | None = None
        self._cause: EngineError | None = None
        self._thread: threading.Thread | None = None
        self._failed = False

    def start(self, on_ready: Callable[[Engine], None]) -> None:
        """Begin to load; `on_ready` is called on the loading thread before anybody else can have the engine."""
        self._thread = threading.Thread(target=self._load, args=(on_ready,), name="ctx-engine-load", daemon=True)
        self._thread.start()

    def health(self) -> Health:
        with self._lock:
            return self._health

    @property
    def failed(self) -> bool:
        """Whether loading failed; stays true after `close`."""
        return self._failed

    @property
    def loading(self) -> bool:
        """Whether the loading thread still runs, even if its engine is no longer wanted."""
        return self._thread is not None and self._thread.is_alive()

    def engine(self) -> Engine:
        """The engine. Raises EngineLoadingError, EngineFailedError or EngineBusyError while there is none."""
        with self._lock:
            engine, health, cause = self._engine, self._health, self._cause
        if engine is not None:
            return engine
        if health.status == "loading":
            raise EngineLoadingError(f"the model is loading: {health.message}", progress=health.progress)
        if cause is not None and health.status == "failed":
            raise EngineFailedError(cause.message, cause=cause.code)
        raise EngineBusyError("the engine is shutting down")

    def close(self) -> None:
        """Stop the engine; waits until its worker has ended. Does not wait for a load in progress. Idempotent."""
        with self._lock:
            engine, self._engine = self._engine, None
            self._health = replace(self._health, status="stopped", message="the engine is shutting down", progress=None)
        if engine is not None:
            engine.close()

    def _load(self, on_ready: Callable[[Engine], None]) -> None:
        try:
            engine = self._factory(self._report)
            on_ready(engine)
        except EngineError as error:
            self._fail(error)
        except BaseException as error:  # whatever a driver, a file system or a library raises must reach /health
            logger.exception("loading %s failed", self._health.model)
            self._fail(EngineError(f"loading the model failed: {type(error).__name__}: {error}"))
        else:
            self._adopt(engine)

    def _report(self, message: str, fraction: float | None) -> None:
        with self._lock:
            previous = self._health
            if previous.status == "loading":
                self._stages.enter(message)
                self._health = replace(previous, message=message, progress=fraction, stages=self._stages.past)
        if message != previous.message:
            logger.info("%s", message)

    def _adopt(self, engine: Engine) -> None:
        with self._lock:
            wanted = self._health.status == "loading"
            if wanted:
                self._engine = engine
                self._stages.enter("ready")
                self._health = Health(
                    "ready",
                    "ready",
                    None,
                    engine.model_name,
                    engine.device,
                    engine.dtype,
                    engine.max_context,
                    engine.exact_only,
                    self._stages.past,
                )
        if not wanted:
            engine.close()
            return
        logger.info("ready: %s on %s, %s", engine.model_name, engine.device, engine.dtype)
        logger.info("its start took %s", in_words(self._stages.past))

    def _fail(self, error: EngineError) -> None:
        with self._lock:
            self._failed = True
            self._cause = error
            if self._health.status == "loading":
                self._health = replace(self._health, status="failed", message=error.message, progress=None)
        logger.error("loading the model failed: %s", error.message)
