"""A long editing session drawn by chance, the same in every run: bursts of edits, questions, files that come and go.

Plain data: what someone does in an editor. Knows nothing of contexts or orders.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.corpus import SourceFile

What = Literal["open", "edit", "close", "switch off", "switch on", "ask"]

OPEN_AT_FIRST = 6
_FEWEST_OPEN = 4
_QUESTIONS = (
    "What does {name} do?",
    "Is there a mistake in what I have just written in {name}?",
    "Which function of {name} would you test first?",
    "What in the other files depends on {name}?",
)


@dataclass(frozen=True)
class Action:
    """One step: `text` is the file's new text, or what is asked."""

    what: What
    name: str
    text: str = ""


@dataclass(frozen=True)
class Habits:
    """How someone works: from so many to so many edits in a burst, and the share of bursts in a recent file."""

    edits: tuple[int, int] = (3, 8)
    recent: float = 2 / 3


USUAL = Habits()
SCATTERED = Habits(edits=(1, 1), recent=0)


def session(files: Sequence[SourceFile], steps: int, seed: int, habits: Habits = USUAL) -> list[Action]:
    """`steps` actions behind those that open the first files; the last one is a question.

    Work goes in bursts: edits in one file around a place that wanders, with a question now and then and one at the end.
    Most bursts are in a file of the last two bursts. Between bursts, now and then, a file is switched off or on again,
    another one opened, or one closed.
    """
    desk = _Desk(files, random.Random(seed), habits)
    opened = [desk.open() for _ in range(OPEN_AT_FIRST)]
    actions: list[Action] = []
    while len(actions) < steps - 1:
        actions += [*desk.burst(), *desk.between()]
    return [*opened, *actions[: steps - 1], desk.ask()]


class _Desk:
    """The files as they are at one moment of the session.

    Invariants: what is open and what is closed are all the files; what is off is open; the file worked in is open and
    not off.
    """

    def __init__(self, files: Sequence[SourceFile], draw: random.Random, habits: Habits) -> None:
        self._draw = draw
        self._habits = habits
        self._closed = list(files)
        self._lines: dict[str, list[str]] = {}
        self._off: set[str] = set()
        self._last: list[str] = []
        self._edits = 0

    def open(self) -> Action:
        file = self._closed.pop(0)
        self._lines[file.name] = file.text.splitlines(keepends=True)
        return Action("open", file.name, file.text)

    def ask(self) -> Action:
        """About the file worked in."""
        name = self._last[-1]
        return Action("ask", name, self._draw.choice(_QUESTIONS).format(name=name))

    # -- a burst ---------------------------------------------------------------------------------------------------

    def burst(self) -> Iterator[Action]:
        name = self._next_file()
        if name in self._off:
            yield self._switch(name)
        self._last = [*(other for other in self._last if other != name), name][-2:]
        place = self._draw.randrange(len(self._lines[name]))
        for _ in range(self._draw.randint(*self._habits.edits)):
            place += self._draw.randint(-1, 3)
            yield self._edit(name, place)
            if self._draw.random() < 0.25:
                yield self.ask()
        yield self.ask()

    def _next_file(self) -> str:
        recent = [name for name in self._last if name in self._lines]
        if recent and self._draw.random() < self._habits.recent:
            return self._draw.choice(recent)
        return self._draw.choice(list(self._lines))

    def _edit(self, name: str, place: int) -> Action:
        """A line changed, put in or taken out near `place`."""
        lines = self._lines[name]
        place = max(0, min(place, len(lines) - 1))
        self._edits += 1
        indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())].strip("\n")
        new = f"{indent}value_{self._edits} = {self._edits}\n"
        kind = self._draw.choices(("change", "put in", "take out"), (5, 3, 2))[0]
        if kind == "take out" and len(lines) > 10:
            del lines[place]
        else:
            lines[place : place + (kind == "change")] = [new]
        return Action("edit", name, "".join(lines))

    # -- between bursts --------------------------------------------------------------------------------------------

    def between(self) -> Iterator[Action]:
        chance = self._draw.random()
        others = [name for name in self._lines if name not in self._last]
        if chance < 0.35:
            yield self._switch(self._draw.choice(others))
        elif chance < 0.45 and self._closed:
            yield self.open()
        elif chance < 0.55 and len(self._lines) > _FEWEST_OPEN:
            yield self._close(self._draw.choice(others))
        if chance < 0.55 and self._draw.random() < 0.5:
            yield self.ask()

    def _switch(self, name: str) -> Action:
        was_off = name in self._off
        self._off ^= {name}
        return Action("switch on" if was_off else "switch off", name)

    def _close(self, name: str) -> Action:
        text = "".join(self._lines.pop(name))
        self._off.discard(name)
        self._closed.append(SourceFile(name, text))
        return Action("close", name)
