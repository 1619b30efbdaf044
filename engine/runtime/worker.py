"""Worker: the one thread that owns the device. Takes steps from the scheduler, runs them, hands the results back.

The lock is held while the host plans and books, and never while the device computes.
"""

from __future__ import annotations

import logging
import threading
import time

from engine.device import on_device
from engine.errors import EngineError
from engine.runtime.forecast import Forecast, Work
from engine.runtime.runner import Runner, UnwantedStepError
from engine.runtime.sampler import Sampler
from engine.runtime.scheduler import Scheduler, StepRow
from engine.runtime.speculation import Speculation

logger = logging.getLogger(__name__)


class Worker:
    """Runs until `stop`. `changed` (whose lock guards all of the engine's state) wakes it when work has come in.

    Attributes:
        tokens_prefilled, tokens_decoded, steps: what was computed so far, drafts apart.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        sampler: Sampler,
        forecast: Forecast,
        changed: threading.Condition,
        speculation: Speculation | None = None,
    ) -> None:
        """`forecast` is told how long each step took, and `speculation` how long decoding did."""
        self._scheduler = scheduler
        self._forecast = forecast
        self._runner = runner
        runner.unwanted = scheduler.unwanted
        self._sampler = sampler
        self._speculation = speculation
        self._changed = changed
        self._stopping = False
        self.tokens_prefilled = 0
        self.tokens_decoded = 0
        self.steps = 0
        self._thread = threading.Thread(target=self._loop, name="ctx-engine-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the step under way has ended. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        with on_device(self._runner.device):
            self._steps()

    def _steps(self) -> None:
        while True:
            with self._changed:
                while not (rows := self._plan()) and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
            self._step(rows)

    def _plan(self) -> list[StepRow]:
        try:
            rows = self._scheduler.next_step()
        except Exception as error:
            # nobody can say whose it was, and whoever waits must hear of it
            logger.exception("a step could not be planned")
            self._scheduler.drop_all(EngineError(f"The engine failed while planning: {error}"))
            rows = []
        # waiters for background prefill look at the scheduler's lists, which planning may have emptied
        self._changed.notify_all()
        return rows

    def _step(self, rows: list[StepRow]) -> None:
        try:
            self._compute(rows)
        except UnwantedStepError:
            with self._changed:
                self._scheduler.given_up(rows)
        except Exception as error:
            logger.exception("a step failed")
            with self._changed:
                self._scheduler.step_failed(rows, EngineError(f"The engine failed while computing: {error}"))
                self._changed.notify_all()

    def _compute(self, rows: list[StepRow]) -> None:
        begun = time.perf_counter()
        work = [Work(row.row.position, len(row.tokens)) for row in rows]
        logits, results = self._runner.run(rows)
        with self._changed:
            self._count(rows)
            generations = self._scheduler.computed(rows, results)
        drafts = [row.draft.tolist() for row in rows if row.samples]
        tokens = list[list[int]]()
        if logits is not None:
            tokens = self._sampler.sample(logits, [generation.sampling for generation in generations], drafts)
        seconds = time.perf_counter() - begun
        with self._changed:
            if self.steps > 1:  # the first one pays for all that is set up on first use
                self._forecast.observe(work, seconds)
                self._book(rows, drafts, tokens, seconds)
            self._scheduler.sampled(generations, tokens)
            self._changed.notify_all()

    def _count(self, rows: list[StepRow]) -> None:
        self.steps += 1
        for row in rows:
            if row.decodes:
                self.tokens_decoded += 1
            else:
                self.tokens_prefilled += len(row.tokens)

    def _book(self, rows: list[StepRow], drafts: list[list[int]], tokens: list[list[int]], seconds: float) -> None:
        """Note what a step that only decoded has given; what was accepted of drafts is decoded as well."""
        if all(row.decodes for row in rows):
            self.tokens_decoded += sum(map(len, tokens)) - len(rows)
            if self._speculation is not None:
                self._speculation.book(drafts, tokens, seconds)
