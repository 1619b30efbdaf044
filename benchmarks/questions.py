"""Questions of every kind that a forecast has to do with, over files and lengths drawn by chance. Knows no clocks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.corpus import SourceFile, edit, excerpt
from engine.config import Fidelity
from engine.context import Context

_ASKED = (
    "What do these files have in common?",
    "Which of these functions would you test first?",
    "Name a class here and say what it is for.",
    "Is there anything that could fail when it is called twice?",
)


@dataclass(frozen=True)
class Question:
    """A question to be asked now; `kind` is what has happened to the context before it, and how it is asked."""

    kind: str
    text: str
    fidelity: Fidelity


def questions(
    context: Context, files: Sequence[SourceFile], count: Callable[[str], int], tokens: int, draw: random.Random
) -> Iterator[Question]:
    """One round over an empty context; each question has to be answered before the next is taken.

    Args:
        count: says how many tokens a text has.
        tokens: mean length of what is opened; lengths vary between a fifth and nine fifths of it.
    """

    def part(file: SourceFile) -> SourceFile:
        return excerpt(file, draw.random(), round(tokens * draw.uniform(0.2, 1.8)), count)

    opened = [part(file) for file in draw.sample(list(files), draw.randint(3, len(files)))]
    for file in opened:
        context.add_chunk(file.text, source=file.name)
    yield Question("cold", draw.choice(_ASKED), "exact")
    yield Question("warm", draw.choice(_ASKED), "exact")
    pasted = part(draw.choice(list(files))).text
    yield Question("warm, long question", f"What is wrong here?\n\n{pasted}", "exact")
    # asked as it is first, so that what it computes doesn't make the exact question cheaper than it is
    for kind, change in _changes(context, opened, draw):
        change()
        asked = draw.choice(_ASKED)
        yield Question(f"{kind}, instant", asked, "instant")
        yield Question(f"{kind}, exact", asked, "exact")


def _changes(
    context: Context, opened: Sequence[SourceFile], draw: random.Random
) -> Iterator[tuple[str, Callable[[], object]]]:
    edited, dropped, moved = draw.choice(opened), draw.choice(opened), draw.choice(opened[1:])
    yield "edited", lambda: context.add_chunk(edit(edited).text, source=edited.name)
    yield "dropped", lambda: context.deactivate(dropped.name)
    yield "brought back", lambda: context.activate(dropped.name)
    yield "moved", lambda: context.move(moved.name, 0)
