"""The workspace trace: 32 files that are all warm, one change, and a question at once; then the next change.

Knows contexts by their facade only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.corpus import SourceFile, edit
from benchmarks.steps import Step
from engine.context import Context

COUNT = 32
QUESTION_TOKENS = 64
WARM, EDITED, TOGGLED = "warm question", "edit", "toggle"
"""What a step's name begins with, by the goal it is held to."""
_ASKED = (
    "Please read these files as a reviewer would before a release. Which function has the weakest error handling, what "
    "happens if its input is empty, missing or of another type than it expects, who calls it, and how would you change "
    "it so that a caller can tell these cases apart without reading its source? Name the file and the lines you mean."
)


def workspace_trace(files: Sequence[SourceFile], count: Callable[[str], int]) -> list[Step]:
    """Open all, ask once more, edit the first, the middle and the last file, take one edit back, toggle, reorder.

    Every question has about 64 tokens by `count` and begins differently.
    """
    steps: list[Step] = []
    now = list(files)
    middle = len(files) // 2

    def add(name: str, change: Callable[[Context], object], shown: Sequence[SourceFile]) -> None:
        steps.append(Step(name, lambda context: (change(context), None)[1], tuple(shown), _question(len(steps), count)))

    def put(name: str, place: int, file: SourceFile) -> None:
        now[place] = file
        add(name, lambda context: context.add_chunk(file.text, source=file.name), now)

    def open_all(context: Context) -> None:
        for file in files:
            context.add_chunk(file.text, source=file.name)

    add(f"open {len(files)} files", open_all, now)
    add(WARM, lambda context: None, now)
    put(f"{EDITED} the first", 0, edit(files[0]))
    put(f"{EDITED} the middle one", middle, edit(files[middle]))
    put(f"{EDITED} the last", -1, edit(files[-1]))
    put("take the middle edit back", middle, files[middle])
    toggled = now[middle + 1]
    without = [file for file in now if file is not toggled]
    add(f"{TOGGLED} one off", lambda context: context.deactivate(toggled.name), without)
    add(f"{TOGGLED} it on", lambda context: context.activate(toggled.name), now)
    moved = now[-1]
    add("reorder", lambda context: context.move(moved.name, 0), [moved, *now[:-1]])
    return steps


def _question(number: int, count: Callable[[str], int]) -> str:
    """The question with this number, cut behind a word to `QUESTION_TOKENS` tokens."""
    words = f"{number + 1}. {_ASKED}".split(" ")
    fitting = [end for end in range(1, len(words) + 1) if count(" ".join(words[:end])) <= QUESTION_TOKENS]
    return " ".join(words[: fitting[-1] if fitting else 1])
