"""The editing trace: what happens to the files, what is asked, and how faithful an instant answer's KV must then be.

Knows contexts by their facade only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.corpus import SourceFile, edit
from engine.context import Context
from engine.types import FidelityLabel

Labels = dict[str, FidelityLabel]


@dataclass(frozen=True)
class Step:
    """One change and the question behind it; `files` are what the prompt shows then, in its order."""

    name: str
    change: Callable[[Context], None]
    files: tuple[SourceFile, ...]
    question: str


def editing_trace(files: Sequence[SourceFile]) -> list[Step]:
    """Open all files, edit the first, drop the third, move the last to the front; a question after each.

    An edited file keeps its place.
    """
    first, second, dropped, *rest = files
    changed = edit(first)
    *middle, last = rest

    def open_all(context: Context) -> None:
        for file in files:
            context.add_chunk(file.text, source=file.name)

    def edit_first(context: Context) -> None:
        context.add_chunk(changed.text, source=changed.name)

    def drop(context: Context) -> None:
        context.deactivate(dropped.name)

    def reorder(context: Context) -> None:
        context.move(last.name, 0)

    return [
        Step(f"open {len(files)} files", open_all, tuple(files), "What do these files have in common?"),
        Step("edit the first", edit_first, (changed, *files[1:]), f"What does {first.name} do?"),
        Step("drop one", drop, (changed, second, *rest), "Which of these files would you test first, and how?"),
        Step("reorder", reorder, (last, changed, second, *middle), "Name a function that could be simpler."),
    ]


def expected_labels(compositions: Sequence[Sequence[SourceFile]], instant: Sequence[bool]) -> list[Labels]:
    """The fidelity of each file in each composition, when they are asked about one after the other.

    `instant` says for each whether KV may be used as it is. Said anew from the definition, for comparison: exact is KV
    that was computed under precisely the files before it, near such as was computed elsewhere or for an earlier version
    of the file, anchored what was computed with no file before it and now stands behind some (near, if there is time to
    compute it anew behind them); what there is no KV of is computed, and exact if all before it is.
    """
    exact_under: set[tuple[tuple[SourceFile, ...], SourceFile]] = set()
    anchored: dict[str, bool] = {}
    found = []
    for files, as_it_is in zip(compositions, instant, strict=True):
        labels: Labels = {}
        for place, file in enumerate(files):
            under = (tuple(files[:place]), file)
            exact_before = all(label is FidelityLabel.EXACT for label in labels.values())
            if not as_it_is or (exact_before and (under in exact_under or file.name not in anchored)):
                labels[file.name] = FidelityLabel.EXACT
                exact_under.add(under)
                anchored[file.name] = place == 0
            elif anchored.setdefault(file.name, False) and place:
                labels[file.name] = FidelityLabel.ANCHORED
            else:
                labels[file.name] = FidelityLabel.NEAR
        found.append(labels)
    return found
