"""A forecast finds the times that steps follow, isn't led astray by a few that don't, and survives its file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.forecast import _MOST_FORESEEN, Forecast, Step, Work

SLICE = 256
PER_STEP, PER_ROW, PER_TOKEN, PER_PAIR = 0.02, 0.01, 0.004, 3e-7
QUESTION = [Work(40, 300), Work(900, 17)]

WORKS = st.builds(Work, st.integers(0, 100_000), st.integers(1, 4096))
STEPS = st.lists(st.tuples(st.lists(WORKS, max_size=4), st.floats(1e-6, 1e3)), max_size=60)


def true_seconds(work: list[Work], steps: int) -> float:
    tokens, pairs = sum(item.tokens for item in work), sum(item.pairs for item in work)
    rows = len(work) + steps - 1  # a slice that ends within an item makes two rows of it
    return PER_STEP * steps + PER_ROW * rows + PER_TOKEN * tokens + PER_PAIR * pairs


def steps_of_all_sizes(count: int, draw: random.Random) -> list[list[Work]]:
    return [
        [Work(draw.randrange(8000), int(2 ** draw.uniform(0, 7))) for _ in range(draw.randint(1, 2))]
        for _ in range(count)
    ]


def test_it_knows_nothing_before_it_has_seen_anything() -> None:
    forecast = Forecast(SLICE)
    assert forecast.seconds(QUESTION) is None
    forecast.observe([], 1.0)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        forecast.observe([Work(0, 5)], seconds)
    assert forecast.seconds(QUESTION) is None
    assert forecast.observations == 0


def test_a_single_step_is_something_to_go_by() -> None:
    forecast = Forecast(SLICE)
    forecast.observe([Work(0, 100)], 0.5)
    assert forecast.seconds([Work(0, 100)]) == pytest.approx(0.5)
    assert forecast.seconds([]) == 0


def test_few_short_steps_are_not_taken_for_hours_of_a_long_prompt() -> None:
    forecast = Forecast(SLICE)
    forecast.observe([Work(0, 20)], 0.1)
    forecast.observe([Work(20, 20)], 0.1)
    assert forecast.seconds([Work(0, 2000)]) == pytest.approx(10, rel=0.5)


def test_it_finds_the_times_that_steps_follow() -> None:
    forecast = Forecast(SLICE)
    for work in steps_of_all_sizes(200, random.Random(3)):
        forecast.observe(work, true_seconds(work, steps=1))
    # 317 tokens are computed in two steps
    assert forecast.seconds(QUESTION) == pytest.approx(true_seconds(QUESTION, steps=2), rel=1e-6)
    assert forecast.seconds([Work(5, 1)]) == pytest.approx(true_seconds([Work(5, 1)], steps=1), rel=1e-6)


def test_a_few_disturbed_steps_hardly_count() -> None:
    draw = random.Random(5)
    forecast = Forecast(SLICE)
    for work in steps_of_all_sizes(200, draw):
        disturbed = draw.choice((8, 30)) if draw.random() < 0.1 else 1
        forecast.observe(work, true_seconds(work, steps=1) * draw.uniform(0.95, 1.05) * disturbed)
    assert forecast.seconds(QUESTION) == pytest.approx(true_seconds(QUESTION, steps=2), rel=0.2)


def test_many_small_steps_do_not_crowd_out_the_large_ones() -> None:
    draw = random.Random(7)
    forecast = Forecast(SLICE)
    for work in steps_of_all_sizes(100, draw):
        forecast.observe(work, true_seconds(work, steps=1))
    for _ in range(5000):  # a long answer, whose steps read weights more than they compute
        forecast.observe([Work(draw.randrange(8000), 1)], 0.05)
    assert forecast.seconds([Work(0, 250)]) == pytest.approx(true_seconds([Work(0, 250)], steps=1), rel=0.15)


def test_it_follows_a_device_that_has_become_slower() -> None:
    draw = random.Random(9)
    forecast = Forecast(SLICE)
    for factor in (1, 3):
        for work in steps_of_all_sizes(400, draw):
            forecast.observe(work, true_seconds(work, steps=1) * factor)
    assert forecast.seconds(QUESTION) == pytest.approx(3 * true_seconds(QUESTION, steps=2), rel=0.1)


@given(STEPS, st.lists(WORKS, max_size=4), WORKS)
def test_it_is_never_negative_and_more_work_never_takes_less(
    steps: list[tuple[list[Work], float]], work: list[Work], more: Work
) -> None:
    forecast = Forecast(SLICE)
    for observed, seconds in steps:
        forecast.observe(observed, seconds)
    foretold = forecast.seconds(work)
    if foretold is None:
        assert not any(observed for observed, _ in steps)
        return
    longer = forecast.seconds([*work, more])
    assert longer is not None
    assert 0 <= foretold <= longer < float("inf")


@given(STEPS, st.integers(0, 100_000), st.floats(0, 100))
def test_it_says_how_many_tokens_can_be_computed_in_a_time(
    steps: list[tuple[list[Work], float]], position: int, budget: float
) -> None:
    forecast = Forecast(SLICE)
    for observed, seconds in steps:
        forecast.observe(observed, seconds)
    count = forecast.tokens_within(budget, position)
    one_more = forecast.seconds([Work(position, count + 1)])
    if one_more is None:
        assert count == 0
        return
    assert one_more > budget or count == len(range(1, _MOST_FORESEEN))
    if count:
        assert (forecast.seconds([Work(position, count)]) or 0.0) <= budget


@given(st.lists(st.tuples(WORKS, st.floats(1e-6, 1e3)), max_size=300))
def test_what_it_keeps_is_bounded_and_the_newest(observed: list[tuple[Work, float]]) -> None:
    forecast = Forecast(SLICE)
    sizes: dict[int, list[Step]] = {}
    for work, seconds in observed:
        forecast.observe([work], seconds)
        sizes.setdefault(work.tokens.bit_length(), []).append((1, work.tokens, work.pairs, seconds))
    kept = {size: rows[-24:] for size, rows in sizes.items()}
    assert {int(rows[0][1]).bit_length(): [*rows] for rows in forecast._observed.values()} == kept
    assert forecast.observations == len(observed)


def test_a_later_run_foretells_what_the_earlier_one_did(tmp_path: Path) -> None:
    path = tmp_path / "speeds" / "model.json"
    first, second = Forecast(SLICE), Forecast(SLICE)
    for work in steps_of_all_sizes(500, random.Random(11)):
        first.observe(work, true_seconds(work, steps=1))
    first.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["model.json"]
    second.load(path)
    assert second.seconds(QUESTION) == first.seconds(QUESTION)
    assert second.observations == 0


def test_a_file_that_is_missing_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forecast = Forecast(SLICE)
    forecast.load(tmp_path / "none.json")
    assert forecast.seconds(QUESTION) is None
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"5",
        b"null",
        b'{"tokens": 1}',
        b"[1, 2, 3, 4]",
        b"[[1, 2, 3]]",
        b'[["a", "b", "c", "d"]]',
        b"[[1, null, 1, 1]]",
        b"[[1, 1" + b"0" * 400 + b", 1, 1]]",
    ],
)
def test_a_damaged_file_is_begun_anew(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    forecast = Forecast(SLICE)
    forecast.load(path)
    assert forecast.seconds(QUESTION) is None
    assert "begun anew" in caplog.text
    forecast.observe([Work(0, 10)], 0.25)
    forecast.save(path)
    assert json.loads(path.read_text()) == [[1, 10, 55.0, 0.25]]


@pytest.mark.parametrize(
    "row", ["1, 1e999, 1, 1", "1, 0, 1, 1", "0, 8, 36, 1", "9, 8, 36, 1", "1, 8, -1, 1", "1, 8, 36, 0", "1, 8, 36, NaN"]
)
def test_impossible_observations_in_a_file_are_passed_over(row: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(f"[[{row}], [1, 10, 55.0, 0.25]]")
    forecast = Forecast(SLICE)
    forecast.load(path)
    assert forecast.seconds([Work(0, 10)]) == pytest.approx(0.25)


def test_a_folder_that_cannot_be_written_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    forecast = Forecast(SLICE)
    forecast.observe([Work(0, 10)], 0.25)
    forecast.save(tmp_path / "file" / "model.json")
    assert "can't be written" in caplog.text
