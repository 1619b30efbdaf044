"""The repairs that are compared: which tokens of stale KV each computes anew, or what it does to them instead.

Percentages are of all tokens of the composition. Slots are int64 on the CPU, ascending. Computes no KV.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.repairs_cases import Case, Stale


@dataclass(frozen=True, eq=False)
class Sight:
    """What a repair may look at. Scores are float32 [tokens] on the CPU.

    Attributes:
        decode: text of token ids.
        keys: squared distance of the second layer's keys to a cold run's.
        deviation: of all layers' values from a cold run's: known to an oracle only.
        mass: attention that the question pays to each token.
    """

    case: Case
    decode: Callable[[Sequence[int]], str]
    keys: Tensor
    deviation: Tensor
    mass: Tensor


Choose = Callable[[Sight], Tensor]
Score = Callable[[Sight], Tensor]


@dataclass(frozen=True)
class Repair:
    """One way to repair.

    Attributes:
        choose: the slots to compute anew.
        asked: it looks at the question, so it is done when all else is computed already.
        paid: it looks at attention paid to what is gone, so it is nothing where nothing is.
        bias: instead of computing the slots anew, this is added to their scores.
        shift: all other slots of a stale run take on the mean change of its values that were computed.
    """

    name: str
    choose: Choose
    asked: bool = False
    paid: bool = False
    bias: float | None = None
    shift: bool = False


def nothing(sight: Sight) -> Tensor:
    return torch.tensor([], dtype=torch.int64)


def near(sight: Sight) -> Tensor:
    """All that is stale."""
    return sight.case.near


def first(count: int, files: int | None = None) -> Choose:
    """The first tokens of each stale file, or of the first so many files."""
    return lambda sight: _each(sight.case.stale_files[:files], lambda slots: slots[:count])


def last(count: int) -> Choose:
    """The last tokens of each stale file."""
    return lambda sight: _each(sight.case.stale_files, lambda slots: slots[-count:])


def header(sight: Sight) -> Tensor:
    """Two lines of each stale file: its name and the fence."""
    return _each(sight.case.stale_files, lambda slots: slots[: _lines_long(sight, slots)])


def frame(sight: Sight) -> Tensor:
    """What stands before and behind each stale file's own text."""

    def both(slots: range) -> list[int]:
        return [*slots[: _lines_long(sight, slots)], *slots[len(slots) - _footer_long(sight, slots) :]]

    return _each(sight.case.stale_files, both)


def _each(stale: Sequence[Stale], part: Callable[[range], Sequence[int]]) -> Tensor:
    """The part of each run's slots."""
    return torch.tensor([slot for s in stale for slot in part(range(s.first, s.end))], dtype=torch.int64)


def _lines_long(sight: Sight, slots: range) -> int:
    ids = sight.case.ids[slots.start : slots.stop]
    return next((n for n in range(1, len(ids)) if sight.decode(ids[:n]).count("\n") >= 2), 8)


def _footer_long(sight: Sight, slots: range) -> int:
    ids = sight.case.ids[slots.start : slots.stop]
    return next((n for n in range(1, len(ids)) if "```\n" in sight.decode(ids[-n:])), 8)


def every(step: int) -> Choose:
    return lambda sight: sight.case.near[::step]


def at_random(percent: int) -> Choose:
    """Stale tokens drawn alike each time."""

    def choose(sight: Sight) -> Tensor:
        order = torch.randperm(len(sight.case.near), generator=torch.Generator().manual_seed(0))
        return sight.case.near[order[: _share(sight, percent)]].sort().values

    return choose


def tokens(score: Score, percent: int, begin: Choose = nothing) -> Choose:
    """What `begin` chooses, and the stale tokens of the highest score until there are so many in all."""

    def choose(sight: Sight) -> Tensor:
        have = begin(sight)
        free = sight.case.near[~torch.isin(sight.case.near, have)]
        count = min(max(0, _share(sight, percent) - len(have)), len(free))
        return torch.cat((have, free[score(sight)[free].topk(count).indices])).sort().values

    return choose


def windows(score: Score, percent: int, width: int = 16) -> Choose:
    """Stretches of stale tokens of the highest mean score, until the next has no room."""

    def choose(sight: Sight) -> Tensor:
        stretches = [
            torch.arange(begin, min(begin + width, stale.end))
            for stale in sight.case.stale
            for begin in range(stale.first, stale.end, width)
        ]
        found, chosen = score(sight), nothing(sight)
        for slots in sorted(stretches, key=lambda slots: -float(found[slots].mean())):
            if len(chosen) + len(slots) > _share(sight, percent):
                break
            chosen = torch.cat((chosen, slots))
        return chosen.sort().values

    return choose


def _share(sight: Sight, percent: int) -> int:
    return int(percent * len(sight.case.ids) / 100)


# -- scores and the repairs --------------------------------------------------------------------------------------------


def keys(sight: Sight) -> Tensor:
    return sight.keys


def deviation(sight: Sight) -> Tensor:
    return sight.deviation


def lost(sight: Sight) -> Tensor:
    return sight.case.lost


def mass(sight: Sight) -> Tensor:
    return sight.mass


def mass_lost(sight: Sight) -> Tensor:
    return sight.mass * sight.case.lost


def mass_deviation(sight: Sight) -> Tensor:
    return sight.mass * sight.deviation


REPAIRS = (
    Repair("none", nothing),
    Repair("everything", near),
    *(Repair(f"first{count}", first(count)) for count in (4, 8, 16, 32)),
    *(Repair(f"next{count}", first(count, files=1)) for count in (16, 64)),
    Repair("header", header),
    Repair("frame", frame),
    Repair("last16", last(16)),
    Repair("stride5%", every(20)),
    Repair("random5%", at_random(5)),
    *(Repair(f"cblend{percent}%", tokens(keys, percent)) for percent in (5, 15)),
    Repair("oracle dev5%", tokens(deviation, 5)),
    *(Repair(f"paid tok{percent}%", tokens(lost, percent), paid=True) for percent in (2, 5, 10)),
    Repair("paid win5%", windows(lost, 5), paid=True),
    Repair("paid win8 5%", windows(lost, 5, width=8), paid=True),
    Repair("first16+paid5%", tokens(lost, 5, begin=first(16)), paid=True),
    *(Repair(f"q win{percent}%", windows(mass, percent), asked=True) for percent in (5, 10, 15, 20)),
    *(Repair(f"q tok{percent}%", tokens(mass, percent), asked=True) for percent in (5, 15, 20)),
    Repair("oracle q*dev tok5%", tokens(mass_deviation, 5), asked=True),
    Repair("oracle q*dev win5%", windows(mass_deviation, 5), asked=True),
    Repair("q*paid tok5%", tokens(mass_lost, 5), asked=True, paid=True),
    Repair("q*paid win5%", windows(mass_lost, 5), asked=True, paid=True),
    *(Repair(f"trick mask{count}", first(count), bias=-math.inf) for count in (4, 16)),
    Repair("trick first16-1", first(16), bias=-1.0),
    *(Repair(f"trick stale{bias:+}", near, bias=bias) for bias in (-0.1, 0.1, -0.3)),
    Repair("first16+shiftV", first(16), shift=True),
)
"""In the order of the tables. cblend is CacheBlend's choice; an oracle knows what a cold run would compute."""
