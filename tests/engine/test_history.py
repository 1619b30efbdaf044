"""After any history of edits, toggles, moves, questions and cancellations an exact answer is what a cold run gives."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine import Engine, SamplingParams
from engine.chat_stream import ChatStream
from engine.config import Order
from engine.errors import ContextFullError, OutOfMemoryError
from engine.types import ChatDelta
from tests.engine.oracle import assert_greedy, finish, oracle, recorded_logits
from tests.engine.test_parity import config
from tests.tiny_models import tiny_model

FOLDER = tiny_model("qwen3")
LINES = (
    "def add(left, right):",
    "    return left + right",
    "class Greeter:",
    "    name = 'the quick brown fox'",
    "for index, value in enumerate(values): print(index)",
    "# the dog does not mind at all, and jumps over the lazy fox",
)
SOURCES = ("a.py", "b.py", "c.py", "d.py")
COMPOSED = ("api", "all")
texts = st.lists(st.sampled_from(LINES), min_size=1, max_size=14).map("\n".join)
questions = st.sampled_from(("Who jumps?", "What does add return, and how many lines has it?", "Why?"))


class History(RuleBasedStateMachine):
    """One engine for all examples, so that each begins with the leftovers of others; a context of its own for each.

    The pool is small enough that segments are evicted all the time.
    """

    engine: Engine | None = None
    count = 0

    @initialize(opened=st.lists(texts, min_size=2, max_size=4, unique=True))
    def begin(self, opened: list[str]) -> None:
        if History.engine is None:
            History.engine = Engine(
                config(FOLDER, kv_cache_tokens=1600, block_size=16, slice_tokens=23, max_context=900)
            )
        History.count += 1
        order: Order = "recency" if History.count % 2 else "fixed"
        self.context = History.engine.context(f"history {History.count}", order=order)
        self.open: list[ChatStream] = []
        for source, text in zip(SOURCES, opened, strict=False):
            self.context.add_chunk(text, source=source)
        self.context.populate()
        assert self.context.wait_populated(60)

    @property
    def sources(self) -> list[str]:
        """What can be drawn: answers come when they come, so their names would make a history hard to repeat."""
        names = {source for chunk in self.context.chunks() for source in chunk.sources}
        return [name for name in (*SOURCES, *COMPOSED) if name in names]

    @rule(source=st.sampled_from(SOURCES), text=texts, active=st.sampled_from((True, True, False)))
    def add_or_edit(self, source: str, text: str, active: bool) -> None:
        info = self.context.add_chunk(text, source=source, active=active)
        assert self.context.text(source) == text
        assert self.context.chunk(info.hash[:12]).hash == info.hash

    @rule(data=st.data(), active=st.sampled_from((True, True, False)))
    def switch(self, data: st.DataObject, active: bool) -> None:
        refs = data.draw(st.lists(st.sampled_from(self.sources), max_size=3)) if self.sources else []
        (self.context.activate if active else self.context.deactivate)(*refs)

    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        if self.sources:
            (self.context.pin if pinned else self.context.unpin)(data.draw(st.sampled_from(self.sources)))

    @rule(data=st.data(), position=st.integers(-6, 6))
    def move(self, data: st.DataObject, position: int) -> None:
        if self.sources:
            self.context.move(data.draw(st.sampled_from(self.sources)), position)

    @rule(data=st.data(), name=st.sampled_from(COMPOSED))
    def compose(self, data: st.DataObject, name: str) -> None:
        if self.sources:
            refs = data.draw(st.lists(st.sampled_from(self.sources), min_size=1, max_size=3))
            assert self.context.compose(refs, name).parts

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if len(self.sources) > 2:
            source = data.draw(st.sampled_from(self.sources))
            if data.draw(st.booleans()):
                self.context.delete(source)
            else:
                self.context.remove_source(source)
            assert source not in self.sources

    @rule(wait=st.booleans())
    def populate(self, wait: bool) -> None:
        self.context.populate()
        if wait:
            assert self.context.wait_populated(60)

    @rule(
        question=questions,
        fidelity=st.sampled_from(("exact", "auto", "instant")),
        budget=st.sampled_from((0.0, 0.05, 10.0)),
        seed=st.integers(0, 9),
    )
    def begin_answer(self, question: str, fidelity: Any, budget: float, seed: int) -> None:
        params = SamplingParams(max_tokens=20, temperature=1.0, seed=seed, top_p=0.95)
        try:
            self.open.append(self.context.chat(question, params, fidelity=fidelity, budget=budget))
        except ContextFullError:
            assert self.context.plan(question).tokens >= 900

    @rule(number=st.integers(0, 5), active=st.booleans())
    def switch_an_answer(self, number: int, active: bool) -> None:
        self.finish_open()
        outputs = [chunk.hash for chunk in self.context.chunks() if chunk.kind == "output"]
        if outputs:
            (self.context.activate if active else self.context.deactivate)(outputs[number % len(outputs)])

    @rule(read=st.integers(0, 5))
    def cancel(self, read: int) -> None:
        if not self.open:
            return
        stream = self.open.pop()
        try:
            for event, _ in zip(stream, range(read), strict=False):
                assert isinstance(event, ChatDelta) or event.stop_reason != "cancelled"
            stream.cancel()
            assert all(stream)
        except OutOfMemoryError:
            return

    @rule(question=questions)
    def ask_exactly(self, question: str) -> None:
        """The point of it all."""
        self.finish_open()
        self.compare(question, "exact")

    @rule(question=questions)
    def ask_while_the_refiner_works(self, question: str) -> None:
        """Whatever the refiner has come to, exact is exact."""
        self.compare(question, "exact")

    @rule(question=questions, data=st.data())
    def ask_instantly_then_exactly(self, question: str, data: st.DataObject) -> None:
        """What an instant answer has computed over near KV is never taken for exact."""
        if self.sources:
            self.context.move(data.draw(st.sampled_from(self.sources)), data.draw(st.integers(-3, 3)))
        with contextlib.suppress(ContextFullError, OutOfMemoryError):
            finish(self.context.chat(question, SamplingParams(max_tokens=2), fidelity="instant", budget=0.0))
        self.compare(question, "exact")

    @rule(question=questions)
    def ask_when_the_refiner_is_idle(self, question: str) -> None:
        """All that is active is exact, unless there was no room for it, and an instant answer is a cold run's."""
        with contextlib.suppress(ContextFullError):  # answers that were switched on fill the window, too
            self.context.populate()
        self.finish_open()
        if all(chunk.fidelity == "exact" for chunk in self.context.chunks() if chunk.active):
            self.compare(question, "instant")

    def compare(self, question: str, fidelity: Any) -> None:
        """The label `exact` is never wrong: such an answer has a cold run's tokens and logits."""
        assert self.engine is not None
        try:
            plan = self.context.plan(question, fidelity=fidelity)
            ids = self.context.prompt_tokens(question, fidelity=fidelity)
            params = SamplingParams(max_tokens=4)
            with recorded_logits(self.engine, params) as recorded:
                done = finish(self.context.chat(question, params, fidelity=fidelity))
        except ContextFullError:
            return
        tokens, logits = oracle(FOLDER).greedy(ids, 4, self.engine._state.model.tokenizer.eos_token_ids)
        room = 900 - len(ids)  # an answer ends where the window does
        assert_greedy(recorded, tokens[:room], logits[:room])
        assert (done.usage.prompt_tokens, plan.tokens) == (len(ids), len(ids))
        assert all(chunk.fidelity == "exact" for chunk in done.chunks)

    def finish_open(self) -> None:
        for stream in self.open:
            with contextlib.suppress(OutOfMemoryError):
                finish(stream)
        self.open = []
        assert self.context.wait_populated(60)

    @invariant()
    def integrity(self) -> None:
        if self.engine is not None:
            self.engine.check_integrity()

    def teardown(self) -> None:
        """Nothing leaks: without a context and its answers every block can be had again."""
        if self.engine is None:
            return
        self.finish_open()
        self.engine.drop_context(self.context.id)
        self.engine.check_integrity()
        assert not self.engine._state.scheduler.pins()


History.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistory = History.TestCase
