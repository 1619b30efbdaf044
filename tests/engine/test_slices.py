"""Slices take as long as somebody may wait for them, as far as it can be foretold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Engine, SamplingParams
from engine.runtime.forecast import Forecast, Work
from engine.runtime.slices import Slices
from engine.speed_file import FOLDER_VARIABLE
from tests.engine.oracle import finish
from tests.engine.test_parity import config
from tests.engine.test_runtime import LONG, watched_steps
from tests.tiny_models import tiny_model

FOLDER = tiny_model("llama")


def learned(per_step: float, per_token: float, per_pair: float) -> Forecast:
    """A forecast of a device of this speed, which has computed steps of all sizes at all positions."""
    forecast = Forecast()
    for power, position in itertools.product(range(14), (0, 1000, 20_000)):
        work = Work(position, 2**power)
        forecast.observe([work], per_step + per_token * work.tokens + per_pair * work.pairs)
    return forecast


def test_a_fixed_size_is_the_size() -> None:
    slices = Slices(lambda seconds, position: 1000, fixed=7)
    assert slices.waited_for(0) == slices.alone(99) == 7


def test_before_anything_was_measured_a_size_is_taken_that_suits_most() -> None:
    slices = Forecast().slices
    assert slices.waited_for(0) == slices.alone(5000) == 256


@pytest.mark.parametrize(
    ("foretold", "size"), [(0, 128), (100, 128), (200, 192), (1000, 960), (8192, 8192), (100_000, 8192)]
)
def test_sizes_are_whole_grains_between_the_fewest_and_the_most(foretold: int, size: int) -> None:
    assert Slices(lambda seconds, position: foretold).waited_for(0) == size


def test_who_waits_and_for_how_long() -> None:
    slices = Slices(lambda seconds, position: int(10_000 * seconds) + position)
    short, long = 250 + 640 - 250 % 64, 2500 + 640 - 2500 % 64
    assert (slices.waited_for(640), slices.background(640), slices.alone(640)) == (short, short, long)


def test_nobody_waits_for_what_can_be_given_up() -> None:
    slices = Slices(lambda seconds, position: int(1000 * seconds), interruptible=True)
    assert (slices.waited_for(0), slices.background(0), slices.alone(0)) == (128, 960, 960)


def test_slices_fill_the_time_they_may_take() -> None:
    forecast = learned(per_step=0.004, per_token=1e-5, per_pair=1e-9)
    for position in (0, 5000, 30_000):
        for size, seconds in ((forecast.slices.waited_for, 0.02), (forecast.slices.alone, 0.25)):
            tokens = size(position)
            work, longer = Work(position, tokens), Work(position, tokens + 64)
            assert 0.004 + 1e-5 * tokens + 1e-9 * work.pairs <= seconds * 1.001
            assert 0.004 + 1e-5 * (tokens + 64) + 1e-9 * longer.pairs > seconds or tokens == 8192


STEPS = st.lists(
    st.tuples(st.builds(Work, st.integers(0, 100_000), st.integers(1, 8192)), st.floats(1e-6, 10)), max_size=60
)


@given(STEPS, st.integers(0, 100_000), st.floats(1e-4, 10))
def test_a_step_is_foretold_to_take_no_longer_and_later_ones_are_no_larger(
    steps: list[tuple[Work, float]], position: int, seconds: float
) -> None:
    forecast = Forecast(1 << 20)
    for work, took in steps:
        forecast.observe([work], took)
    tokens = forecast.step_tokens(seconds, position)
    if tokens is None:
        assert not steps
        return
    assert 0 <= tokens <= 2 * max(work.tokens for work, _ in steps)
    if tokens:
        assert (forecast.seconds([Work(position, tokens)]) or 0) <= seconds * (1 + 1e-6)
    one_more = forecast.seconds([Work(position, tokens + 1)])
    assert one_more is not None
    assert one_more >= seconds * (1 - 1e-6) or tokens == 2 * max(work.tokens for work, _ in steps)
    later = forecast.step_tokens(seconds, position + 1000)
    assert later is not None
    assert later <= tokens


def test_a_forecast_counts_the_slices_it_will_be_cut_into() -> None:
    forecast = learned(per_step=0.1, per_token=1e-3, per_pair=0)
    size = forecast.slices.alone(1000)
    assert size == 128
    assert forecast.seconds([Work(0, 1000)]) == pytest.approx(8 * 0.1 + 1000 * 1e-3, rel=0.05)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """On a clock that says what a device would take whose time depends on a step's tokens alone, all of each step."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("engine.engine.can_give_up", lambda decoder, device: False)
    with Engine(config(FOLDER, slice_tokens=None)) as engine:
        forecast = engine._state.forecast
        observe = forecast.observe

        def measured(work: list[Work], seconds: float) -> None:
            observe(work, 0.001 + 5e-5 * sum(item.tokens for item in work))

        with patch.object(forecast, "observe", measured):
            yield engine


SHORT = 320
"""Tokens, in whole grains, that such a device computes in 20 ms."""


def test_the_background_keeps_to_its_time_and_a_question_alone_takes_more(engine: Engine) -> None:
    contexts = [engine.context(name) for name in ("refined", "asked")]
    for context in contexts:
        context.add_chunk(f"{context.id}\n{LONG}", source="long")
    with watched_steps(engine) as steps:
        contexts[0].populate()
        assert contexts[0].wait_populated(60)
        background = [sum(len(row.tokens) for row in rows) for rows in steps]
        finish(contexts[1].chat("Who?", SamplingParams(max_tokens=1)))
        alone = [sum(len(row.tokens) for row in rows) for rows in steps[len(background) :]]
    assert max(background) == SHORT
    assert max(alone) > SHORT


def test_a_question_beside_answers_comes_in_short_slices(engine: Engine) -> None:
    warm, answering, asking = (engine.context(name) for name in ("warm", "answering", "asking"))
    for context in (warm, asking):
        context.add_chunk(f"{context.id}\n{LONG}", source="long")
    finish(warm.chat("Who?", SamplingParams(max_tokens=1)))
    with watched_steps(engine) as steps:
        first = answering.chat("Who?", SamplingParams(max_tokens=300))
        began = next(first)
        finish(asking.chat("Who?", SamplingParams(max_tokens=1)))
        finish(first, [began])
    beside = [rows for rows in steps if any(row.decodes for row in rows) and not all(row.decodes for row in rows)]
    assert max(sum(len(row.tokens) for row in rows if not row.decodes) for rows in beside) == SHORT
