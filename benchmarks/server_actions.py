"""What a user does to six files while a server keeps them: each action, the files as they are then, and a question.

Knows no server: a side applies an action to what it keeps, or sends the files with the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from benchmarks.corpus import SourceFile, edit

OPEN, WARM, EDIT, OFF, ON, UP, FRONT, APPEND = (
    *("open all", "same again", "edit the first", "toggle one off", "toggle it on"),
    *("move the last up", "move the last to the front", "append a line"),
)


class Kept(Protocol):
    """The files as a server keeps them between questions, in the prompt's order."""

    def put(self, file: SourceFile) -> None:
        """Add a file at the end, or replace the text of the one with this name."""
        ...

    def switch_off(self, name: str) -> None: ...

    def switch_on(self, name: str) -> None: ...

    def move(self, name: str, position: int) -> None: ...


@dataclass(frozen=True)
class Action:
    """`files` are what the prompt shows after `change`, in its order."""

    name: str
    change: Callable[[Kept], None]
    files: tuple[SourceFile, ...]
    question: str


def actions(files: Sequence[SourceFile]) -> list[Action]:
    """All of them, one after the other; what is edited keeps its place."""
    first, second, toggled, *rest = files
    edited = edit(first)
    without = (edited, second, *rest)
    again = (edited, second, toggled, *rest)
    up = (edited, again[-1], *again[1:-1])
    front = (up[-1], *up[:-1])
    longer = append_line(front[-1])

    def open_all(kept: Kept) -> None:
        for file in files:
            kept.put(file)

    return [
        Action(OPEN, open_all, tuple(files), "What do these files have in common?"),
        Action(WARM, lambda kept: None, tuple(files), "Which function is the longest?"),
        Action(EDIT, lambda kept: kept.put(edited), again, f"What does {first.name} do?"),
        Action(OFF, lambda kept: kept.switch_off(toggled.name), without, "Which of these would you test first?"),
        Action(ON, lambda kept: kept.switch_on(toggled.name), again, f"Who calls {toggled.name}?"),
        Action(UP, lambda kept: kept.move(up[1].name, 1), up, "Name a function that could be simpler."),
        Action(FRONT, lambda kept: kept.move(front[0].name, 0), front, "Which two of these are most alike?"),
        Action(APPEND, lambda kept: kept.put(longer), (*front[:-1], longer), f"How does {longer.name} end?"),
    ]


def append_line(file: SourceFile) -> SourceFile:
    """The file with a line more, as someone who types at its end would."""
    return replace(file, text=f"{file.text.rstrip()}\n\nDONE = True  # appended\n")


def of_round(files: Sequence[SourceFile], number: int) -> list[SourceFile]:
    """The files with a first line that no other round's have, so that no server finds an earlier round's KV."""
    return [replace(file, text=f"# round {number}\n{file.text}") for file in files]
