"""A session is the same in every run, and each of its actions makes sense where it stands."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from benchmarks.corpus import SourceFile
from benchmarks.play import AGAIN, ANOTHER, NOTHING, SET, occasions
from benchmarks.session import OPEN_AT_FIRST, SCATTERED, Action, session

FILES = [SourceFile(f"{name}.py", "".join(f"{name}_{line} = {line}\n" for line in range(30))) for name in "abcdefghi"]


@pytest.mark.parametrize("seed", range(5))
def test_every_action_makes_sense(seed: int) -> None:
    actions = session(FILES, 240, seed)
    assert len(actions) == OPEN_AT_FIRST + 240
    assert actions[-1].what == "ask"
    texts: dict[str, str] = {}
    off: set[str] = set()
    for action in actions:
        if action.what == "open":
            assert action.name not in texts
        else:
            assert action.name in texts
        if action.what == "edit":
            assert action.text != texts[action.name]
            assert len(texts[action.name].splitlines()) - len(action.text.splitlines()) in (-1, 0, 1)
        if action.what in ("open", "edit"):
            assert action.name not in off
            texts[action.name] = action.text
        elif action.what == "close":
            del texts[action.name]
            off.discard(action.name)
        elif action.what.startswith("switch"):
            assert (action.name in off) == (action.what == "switch on")
            off ^= {action.name}
        else:
            assert action.name in action.text
    assert len(texts) >= 4


def test_scattered_edits_are_asked_about_one_by_one() -> None:
    actions = session(FILES, 240, 1, SCATTERED)[OPEN_AT_FIRST:]
    edits = [step for step, action in enumerate(actions[:-1]) if action.what == "edit"]
    assert all(actions[step + 1].what == "ask" for step in edits)
    again = sum(actions[one].name == actions[other].name for one, other in pairwise(edits))
    assert again / len(edits) < 0.4


def test_it_is_the_same_in_every_run() -> None:
    assert session(FILES, 100, 1) == session(FILES, 100, 1)
    assert session(FILES, 100, 1) != session(FILES, 100, 2)


def test_edits_come_in_bursts_and_some_of_everything_happens() -> None:
    actions = [action for seed in range(10) for action in session(FILES, 240, seed)[OPEN_AT_FIRST:]]
    counts = Counter(action.what for action in actions)
    assert set(counts) == {"open", "edit", "close", "switch off", "switch on", "ask"}
    assert 0.2 < counts["ask"] / len(actions) < 0.45
    edited = [action.name for action in actions if action.what == "edit"]
    again = sum(one == other for one, other in pairwise(edited))
    assert again / len(edited) > 0.75


def test_what_has_happened_before_a_question() -> None:
    def act(*whats: str) -> list[Action]:
        return [Action(*what.split(":")) for what in whats]  # type: ignore[arg-type]

    actions = act("ask:a", "edit:a", "ask:a", "edit:a", "edit:a", "ask:a", "ask:a", "edit:a", "edit:b", "ask:b")
    assert occasions(actions) == [NOTHING, ANOTHER, AGAIN, NOTHING, ANOTHER]
    actions = act("edit:a", "switch off:b", "ask:a", "close:b", "ask:a", "edit:a", "ask:a")
    assert occasions(actions) == [SET, SET, AGAIN]
