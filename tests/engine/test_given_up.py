"""A step that nobody needs any more ends between two of its layers, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from torch import Tensor

from engine import Engine, SamplingParams
from engine.runtime.scheduler import StepRow
from engine.types import FidelityLabel
from tests.engine.oracle import finish, oracle
from tests.engine.test_parity import config
from tests.engine.test_runtime import LONG
from tests.tiny_models import tiny_model

FOLDER = tiny_model("llama")
ONE = SamplingParams(max_tokens=1)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(config(FOLDER, slice_tokens=4096, refine=False)) as engine:
        yield engine
        engine.check_integrity()


class Held:
    """The engine's first prefill step: `begun` once it is in its first layer, where it stays until `release`."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()
        self.layers: list[int] = []
        self.given_up: list[Sequence[StepRow]] = []


@contextlib.contextmanager
def held_step(engine: Engine) -> Iterator[Held]:
    held = Held()
    attention, scheduler = engine._state.model.attention, engine._state.scheduler
    attend, keep, given_up = type(attention).__call__, type(attention).keep, scheduler.given_up

    def wait(layer: int) -> None:
        if not held.begun.is_set():
            held.begun.set()
            assert held.release.wait(60)
        held.layers.append(layer)

    def attending(self: Any, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        wait(layer)
        return attend(self, layer, q, k, v)

    def keeping(self: Any, layer: int, k: Tensor, v: Tensor) -> None:
        wait(layer)
        keep(self, layer, k, v)

    def noting(rows: Sequence[StepRow]) -> None:
        held.given_up.append(rows)
        given_up(rows)

    with (
        patch.object(type(attention), "__call__", attending),
        patch.object(type(attention), "keep", keeping),
        patch.object(scheduler, "given_up", noting),
    ):
        try:
            yield held
        finally:
            held.release.set()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come about within 30 seconds")


def test_a_question_does_not_wait_for_the_layers_of_background_work(engine: Engine) -> None:
    background, asking = engine.context("background"), engine.context("asking")
    background.add_chunk(LONG, source="long")
    with held_step(engine) as held:
        background.populate()
        assert held.begun.wait(60)
        answer = asking.chat("Who?", ONE)
        held.release.set()
        text = finish(answer).text
        assert background.wait_populated(60)
    assert len(held.given_up) == 1
    assert held.layers[:2] == [0, 0], "the step under way ended behind its first layer"
    tokens, _ = oracle(FOLDER).greedy(asking.prompt_tokens("Who?"), 1)
    assert text == engine._state.model.tokenizer.decode(tokens)
    assert {chunk.fidelity for chunk in background.chunks()} == {FidelityLabel.EXACT}
    tokens, _ = oracle(FOLDER).greedy(background.prompt_tokens("Who?"), 1)
    assert finish(background.chat("Who?", ONE)).text == engine._state.model.tokenizer.decode(tokens)


def test_a_cancelled_question_computes_no_further_layer(engine: Engine) -> None:
    context = engine.context()
    context.add_chunk(LONG, source="long")
    with held_step(engine) as held:
        stream = context.chat("Who?", ONE)
        assert held.begun.wait(60)
        stream.close()
        held.release.set()
        until(lambda: bool(held.given_up))
        assert held.layers == [0]
    assert engine.stats().tokens_prefilled == 0
    tokens, _ = oracle(FOLDER).greedy(context.prompt_tokens("Who?"), 1)
    assert finish(context.chat("Who?", ONE)).text == engine._state.model.tokenizer.decode(tokens)


def test_a_step_goes_on_while_one_of_its_answers_is_wanted(engine: Engine) -> None:
    contexts = [engine.context(name) for name in ("one", "two")]
    for context in contexts:
        context.add_chunk(f"{context.id}\n{LONG}", source="long")
    with held_step(engine) as held:
        first = contexts[0].chat("Who?", ONE)
        assert held.begun.wait(60)
        second = contexts[1].chat("Who?", ONE)
        second.close()
        held.release.set()
        finish(first)
    assert not held.given_up
