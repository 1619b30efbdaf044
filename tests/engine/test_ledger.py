"""The ledger lets drafts cost no more than their share of decoding, however slow and however often right they are."""

from __future__ import annotations

import operator
import random
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.ledger import Ledger

PLAIN = 0.01


@dataclass
class Decoding:
    """A device that decodes, and what its time has gone into. `cost(k)`: what k drafted tokens take, in plain steps."""

    cost: Any
    answers: int = 1
    seconds: float = 0.0
    worth: float = 0.0
    drafted: int = 0

    def run(self, ledger: Ledger, steps: int, most: int, accepted: Any, plain: float = PLAIN) -> None:
        """`accepted(k)`: how many of k drafted tokens prove right."""
        for _ in range(steps):
            count = ledger.affordable(self.answers, most)
            emitted = self.answers + (accepted(count) if count else 0)
            seconds = plain * (1 + (self.cost(count) if count else 0))
            ledger.book(self.answers, count, emitted, seconds)
            self.seconds += seconds
            self.worth += plain * emitted / self.answers
            self.drafted += count


@given(
    answers=st.integers(1, 8),
    most=st.integers(1, 40),
    share=st.floats(0, 1),
    fixed=st.floats(0, 1),
    right=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_drafts_cost_no_more_than_their_share(
    answers: int, most: int, share: float, fixed: float, right: float, seed: int
) -> None:
    draw = random.Random(seed)
    decoding = Decoding(lambda k: min(k, fixed + share * k) * draw.uniform(0.9, 1.0), answers)
    ledger = Ledger()
    for _ in range(5):
        decoding.run(ledger, 100, most, lambda k: sum(draw.random() < right for _ in range(k)) if right else 0)
        assert decoding.seconds <= 1.03 * decoding.worth
        ledger.begin()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=400), st.integers(1, 15))
def test_costs_that_change_from_step_to_step_are_paid_off_before_any_more(
    steps: list[tuple[float, float]], most: int
) -> None:
    """What can't be foretold is a single draft's cost at a time."""
    decoding, ledger = Decoding(lambda k: 0.0), Ledger()
    decoding.run(ledger, 200, most, lambda k: 0)
    for cost, right in steps:
        decoding.cost = partial(operator.mul, cost)
        decoding.run(ledger, 1, most, lambda k, right=right: int(right * k))
        assert decoding.seconds <= 1.021 * decoding.worth + most * PLAIN


def test_a_draft_waits_until_plain_steps_have_earned_it() -> None:
    ledger = Ledger()
    assert ledger.affordable(1, 8) == 0
    for _ in range(49):
        ledger.book(1, 0, 1, PLAIN)
        assert ledger.affordable(1, 8) == 0, "a token may cost as much as a plain step: that's the share of 50"
    ledger.book(1, 0, 1, PLAIN * 1.01)
    assert ledger.affordable(1, 8) == 1


def test_drafts_that_are_right_soon_take_all_the_room_they_are_given() -> None:
    decoding, ledger = Decoding(lambda k: 0.1), Ledger()
    decoding.run(ledger, 60, 1, lambda k: k)
    decoding.run(ledger, 30, 15, lambda k: k)
    assert ledger.affordable(1, 15) == 15
    assert decoding.worth > 2 * decoding.seconds


def test_what_was_saved_is_not_for_the_next_answer_to_waste() -> None:
    ledger = Ledger()
    Decoding(lambda k: 0.5).run(ledger, 200, 15, lambda k: k)
    ledger.begin()
    wasted = Decoding(lambda k: 0.5)
    wasted.run(ledger, 100, 15, lambda k: 0)
    assert wasted.drafted
    assert wasted.seconds <= 1.03 * wasted.worth


def test_setting_up_on_first_use_is_not_what_a_draft_costs() -> None:
    ledger = Ledger()
    Decoding(lambda k: 0.1).run(ledger, 100, 1, lambda k: k)
    ledger.book(1, 3, 4, 1000 * PLAIN)
    decoding = Decoding(lambda k: 0.1)
    decoding.run(ledger, 100, 3, lambda k: k)
    assert decoding.drafted > 200


def test_plain_steps_are_timed_again_and_again() -> None:
    """However right drafts are: else what they save would be told by times long past."""
    ledger, in_a_row = Ledger(), [0]
    Decoding(lambda k: 0.0).run(ledger, 100, 15, lambda k: k)
    for _ in range(200):
        count = ledger.affordable(1, 15)
        in_a_row = [*in_a_row, 0] if not count else [*in_a_row[:-1], in_a_row[-1] + 1]
        ledger.book(1, count, 1 + count, PLAIN)
    assert len(in_a_row) > 3
    assert max(in_a_row) <= 32


def test_each_number_of_answers_has_its_own_plain_step() -> None:
    ledger = Ledger()
    Decoding(lambda k: 0.0).run(ledger, 100, 15, lambda k: k)
    assert ledger.affordable(1, 15)
    assert ledger.affordable(2, 15) == 0


def test_time_spent_looking_is_paid_too() -> None:
    ledger = Ledger()
    Decoding(lambda k: 0.0).run(ledger, 100, 1, lambda k: k)
    assert ledger.affordable(1, 1)
    ledger.spend(1.0)
    assert not ledger.affordable(1, 1)
