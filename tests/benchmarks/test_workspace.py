"""The workspace trace measures one change at a time over KV that is all warm, and asks at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import SourceFile
from benchmarks.random_model import SHAPES
from benchmarks.trace import AUTO, EXACT, INSTANT, PEER, main
from benchmarks.workspace import COUNT, QUESTION_TOKENS, workspace_trace
from tests.benchmarks.shapes import TINY_SHAPE

FILES = [SourceFile(f"{number}.py", f"x_{number} = 1\n" * 30) for number in range(COUNT)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """By step and side."""
    folder: Path = tmp_path_factory.mktemp("workspace")
    options = ("--random-shape", "tiny", "--device", "cpu", "--dtype", "float32", "--threads", "1")
    more = ("--trace", "workspace", "--file-tokens", "100", "--repeat", "1", "--json", str(folder / "found.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "tiny", TINY_SHAPE)
        # 1 would say that a fidelity label was wrong
        assert main([*options, *more, "--plot", str(folder / "drawn.svg")]) == 0
    assert "<svg" in (folder / "drawn.svg").read_text()
    found = json.loads((folder / "found.json").read_text())
    assert found["disagreements"] == []
    return {(row["step"], row["side"]): row for row in found["rows"]}


def test_each_step_has_every_side(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    steps = list(dict.fromkeys(step for step, _ in rows))
    assert len(steps) == 9
    assert [side for step, side in rows if step == steps[0]] == [PEER, EXACT, INSTANT, AUTO]
    assert len(rows) == 4 * len(steps)


def test_a_warm_question_computes_itself_alone(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    for side in (EXACT, INSTANT, AUTO):
        assert QUESTION_TOKENS - 8 < rows["warm question", side]["computed"] < QUESTION_TOKENS + 32
        assert rows["warm question", side]["fidelity"] == {"exact": COUNT}


def test_wherever_the_edit_is_an_instant_answer_computes_little(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    for step in ("edit the first", "edit the middle one", "edit the last"):
        instant = rows[step, INSTANT]
        assert instant["computed"] < 4 * 100
        assert instant["computed"] + instant["reused"] == sum(rows[step, PEER][name] for name in ("computed", "reused"))
    assert rows["edit the first", EXACT]["computed"] > 30 * 100


def test_each_change_begins_with_everything_exact(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    # those before the edited file, whatever was edited before
    assert rows["edit the middle one", INSTANT]["fidelity"] == {"exact": COUNT // 2, "near": COUNT // 2}
    assert rows["edit the last", INSTANT]["fidelity"] == {"exact": COUNT - 1, "near": 1}


def test_what_was_there_before_is_there_again(rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    for step in ("toggle it on", "take the middle edit back"):
        assert rows[step, EXACT]["computed"] < 300
        assert rows[step, EXACT]["fidelity"] == {"exact": COUNT}


def test_the_steps() -> None:
    steps = workspace_trace(FILES, lambda text: len(text.split()))
    questions = [step.question for step in steps]
    assert len({question.split()[0] for question in questions}) == len(steps)
    assert all(len(question.split()) <= QUESTION_TOKENS for question in questions)
    by_name = {step.name: step.files for step in steps}
    assert by_name["warm question"] == tuple(FILES)
    for name, place in (("edit the first", 0), ("edit the middle one", COUNT // 2), ("edit the last", COUNT - 1)):
        assert by_name[name][place] != FILES[place]
    assert by_name["take the middle edit back"][COUNT // 2] == FILES[COUNT // 2]
    assert len(by_name["toggle one off"]) == COUNT - 1
    assert by_name["toggle it on"] == by_name["take the middle edit back"]
    assert by_name["reorder"] == (by_name["toggle it on"][-1], *by_name["toggle it on"][:-1])
