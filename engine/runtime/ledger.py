"""Ledger: what verifying drafts has cost and saved, so that it never costs more than a small share of decoding.

Knows step times and counts of tokens; nothing of answers, of drafts or of clocks.
"""

from __future__ import annotations

import statistics
from collections import deque

_SHARE = 0.02
"""Of decoding time that may go into drafts which save nothing; what is foretold wrongly comes on top."""

_CARRIED, _HELD = 1.0, 16.0
"""Plain steps' time of unused allowance that goes on to the next answers, and that may gather within them."""

_FEWEST, _KEPT_PLAIN, _KEPT_EXTRA = 3, 15, 8
"""Plain steps that must be timed before any draft, and how many times are remembered: the latest count."""

_STALE = 32
"""Drafts verified in a row after which a plain step is timed again: it takes longer as the answer grows."""


class Ledger:
    """An account of seconds: a share of decoding time and what drafts save is earned, what they cost is spent.

    A step with drafts saves the plain steps that it stands for and costs its own time. What a length costs is learned;
    at first, and at most, a drafted token is taken to cost as much as a plain step. What takes still longer is not the
    draft's doing (the first use of a size sets things up), and no more than that is ever booked.

    Invariants: a draft is allowed only if what its step must be expected to cost is in the account; the account never
    holds more than `_HELD` plain steps, and no more than `_CARRIED` of them when answers begin. `_plain_steps` has the
    seconds of a step of so many answers once enough were timed, `_expected` what is worked out of `_extra` already.
    """

    def __init__(self) -> None:
        self._plain: dict[int, deque[float]] = {}
        self._plain_steps: dict[int, float] = {}
        self._unrefreshed: dict[int, int] = {}
        self._extra: dict[int, deque[float]] = {}
        self._expected: dict[int, float] = {}
        self._account = 0.0
        self._step = 0.0

    def begin(self) -> None:
        """No answer is running: the next ones may stand elsewhere, and what drafts saved the last is not theirs."""
        self._account = min(self._account, _CARRIED * self._step)
        self._plain.clear()
        self._plain_steps.clear()
        self._unrefreshed.clear()

    def affordable(self, answers: int, most: int) -> int:
        """How many drafted tokens, up to `most`, the next step of so many answers may verify."""
        plain = self._plain_steps.get(answers)
        if plain is None or self._unrefreshed.get(answers, 0) >= _STALE:
            return 0
        while most > 0 and self._expected_extra(most) * plain > self._account:
            most //= 2
        return most

    def book(self, answers: int, drafted: int, emitted: int, seconds: float) -> None:
        """A step that only decoded so many answers, `drafted` tokens among them all, gave `emitted` tokens in all."""
        if not drafted:
            self._note_plain(answers, seconds)
            self._unrefreshed[answers] = 0
            self._step = seconds / answers
            self._earn(_SHARE * seconds)
        elif (plain := self._plain_steps.get(answers)) is not None:
            extra = min(seconds / plain - 1, drafted)
            self._extra.setdefault(drafted, deque(maxlen=_KEPT_EXTRA)).append(extra)
            self._expected.clear()
            self._unrefreshed[answers] += 1
            self._earn((emitted / answers - 1 - extra) * plain + _SHARE * (1 + extra) * plain)

    def spend(self, seconds: float) -> None:
        """Looking for drafts took so long, and whether they can be afforded."""
        self._account -= seconds

    def _earn(self, seconds: float) -> None:
        self._account = min(self._account + seconds, _HELD * self._step)

    def _note_plain(self, answers: int, seconds: float) -> None:
        timed = self._plain.setdefault(answers, deque(maxlen=_KEPT_PLAIN))
        timed.append(seconds)
        if len(timed) >= _FEWEST:
            self._plain_steps[answers] = statistics.median(timed)

    def _expected_extra(self, drafted: int) -> float:
        """What so many drafted tokens must be expected to cost, in plain steps of the same answers; worked out once.

        It is asked for at every step, and a small model's step is short.
        """
        if drafted not in self._expected:
            self._expected[drafted] = self._work_out_extra(drafted)
        return self._expected[drafted]

    def _work_out_extra(self, drafted: int) -> float:
        """Of a length not tried yet: no more than a longer one, and a plain step per token more than a shorter one."""
        if drafted in self._extra:
            return _all_but_worst(self._extra[drafted])
        longer = [_all_but_worst(seen) for length, seen in self._extra.items() if length > drafted]
        shorter = max((length for length in self._extra if length < drafted), default=0)
        base = max(0.0, _all_but_worst(self._extra[shorter])) if shorter else 0.0
        return min([base + drafted - shorter, *longer])


def _all_but_worst(seen: deque[float]) -> float:
    """The most, a single one aside once there are several: the device was busy with something else."""
    return sorted(seen)[-2 if len(seen) > 2 else -1]
