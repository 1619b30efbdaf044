"""The editing trace runs end to end on a tiny model, counts its tokens rightly and notices what it should notice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checks import differences, wrong_labels
from benchmarks.random_model import SHAPES, make_tokenizer
from benchmarks.report import Sample, rows
from benchmarks.sides import Answer, Change
from benchmarks.steps import Labels, editing_trace
from benchmarks.trace import AUTO, EXACT, INSTANT, PAUSED, PEER, main
from engine.types import FidelityLabel
from tests.benchmarks.files import FILES
from tests.benchmarks.shapes import TINY_SHAPE
from tests.tiny_models import tiny_model

STEPS = ("open 6 files", "edit the first", "drop one", "reorder")
SIDES = (PEER, EXACT, PAUSED, INSTANT, AUTO)
SMALL = ("--device", "cpu", "--dtype", "float32", "--file-tokens", "120")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What the command prints, and its JSON."""
    file = tmp_path_factory.mktemp("trace") / "trace.json"
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *values, **_: printed.append(" ".join(map(str, values))))
        more = ("--repeat", "2", "--answer-tokens", "3", "--profile", "--json", str(file))
        assert main(["--model", str(tiny_model("qwen2")), *SMALL, *more]) == 0
    return "\n".join(printed), json.loads(file.read_text())


def row(result: tuple[str, dict[str, Any]], step: str, side: str) -> dict[str, Any]:
    (found,) = [row for row in result[1]["rows"] if (row["step"], row["side"]) == (step, side)]
    return dict(found)


def test_every_step_has_a_row_per_side(result: tuple[str, dict[str, Any]]) -> None:
    printed, report = result
    assert [(row["step"], row["side"]) for row in report["rows"]] == [(step, side) for step in STEPS for side in SIDES]
    table = printed.splitlines()
    start = next(index for index, line in enumerate(table) if line.startswith("step"))
    for index, found in enumerate(report["rows"]):
        line = table[start + 1 + index]
        assert line.startswith(found["step"] if found["side"] == PEER else " " * len("open 6 files"))
        assert found["side"] in line
        assert f"{found['computed']:,}  " in line
        assert len(found["samples"]) == 2
        assert found["per_token"] > 0


def test_all_sides_see_the_same_prompt(result: tuple[str, dict[str, Any]]) -> None:
    _, report = result
    for step in STEPS:
        prompts = {row(result, step, side)["computed"] + row(result, step, side)["reused"] for side in SIDES}
        assert len(prompts) == 1
        if step != "open 6 files":
            assert all(row(result, step, side)["reused"] > 0 for side in SIDES)
    opened = row(result, "open 6 files", PEER)
    assert opened["reused"] == 0
    assert opened["computed"] > sum(report["files"].values()) >= 6 * 120


def test_what_each_way_of_asking_computes(result: tuple[str, dict[str, Any]]) -> None:
    files = result[1]["files"]
    first, *others = files.values()
    for step in STEPS:
        tail = row(result, step, PAUSED)["computed"]
        assert tail < 64
        left = sum(others) if step == "edit the first" else 0
        assert row(result, step, EXACT)["computed"] >= tail + left
    assert row(result, "open 6 files", INSTANT)["computed"] == row(result, "open 6 files", EXACT)["computed"]
    # of the edited file, the change and the seam behind it
    edited = row(result, "edit the first", INSTANT)["computed"]
    assert row(result, "edit the first", PAUSED)["computed"] < edited < first
    # what has read most of the dropped file, and at most the one file that had read nothing before it was moved
    for step, most in (("drop one", 0.06 * sum(files.values())), ("reorder", 2 * first)):
        instant, paused = row(result, step, INSTANT)["computed"], row(result, step, PAUSED)["computed"]
        assert paused <= instant <= paused + most < row(result, step, EXACT)["computed"]
    # never KV that has read what was dropped
    assert row(result, "drop one", AUTO)["computed"] >= row(result, "drop one", EXACT)["computed"]


def test_fidelities_are_counted(result: tuple[str, dict[str, Any]]) -> None:
    instant = [row(result, step, INSTANT)["fidelity"] for step in STEPS]
    # the file moved behind another is anchored, unless there was time to compute it anew
    assert instant[:3] == [{"exact": 6}, {"near": 6}, {"near": 5}]
    assert instant[3] in ({"near": 4, "anchored": 1}, {"near": 5})
    for side in (EXACT, PAUSED):
        assert [row(result, step, side)["fidelity"] for step in STEPS] == [{"exact": n} for n in (6, 6, 5, 5)]


def test_the_checks_pass(result: tuple[str, dict[str, Any]]) -> None:
    printed, report = result
    assert report["disagreements"] == report["wrong_labels"] == []
    assert "First tokens of exact answers and of transformers: all agree." in printed
    assert "Fidelity labels: all as they must be." in printed


def test_the_profile_covers_every_step(result: tuple[str, dict[str, Any]]) -> None:
    printed, report = result
    assert list(report["stages"]) == list(STEPS)
    for times in report["stages"].values():
        assert times["steps"] >= 1
        assert times["attention"] > 0
        assert times["other layers"] > 0
    assert "Where the engine's time went" in printed


def test_files_too_short_to_tell_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--file-tokens", "99"])
    assert "must be at least 100" in capsys.readouterr().err


def test_a_random_shape_runs_on_both_sides(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY_SHAPE)
    assert main(["--random-shape", "tiny", *SMALL, "--repeat", "1"]) == 0
    printed = capsys.readouterr().out
    assert "tiny (random weights, float32)" in printed
    assert "First tokens of exact answers and of transformers: all agree." in printed


def test_whatever_a_random_model_says_has_a_text() -> None:
    tokenizer = make_tokenizer([file.text for file in FILES], 5000)
    text = FILES[0].text
    assert tokenizer.decode(tokenizer.encode(text, special=False)) == text
    learned = len(tokenizer.backend.get_vocab())
    assert learned == 5000
    assert tokenizer.decode([4999]) == "<4999>"
    assert len(tokenizer.encode("<4999>", special=False)) > 1


def test_it_says_what_is_wrong_with_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "only.py").write_text("x = 1\n")
    assert main(["--files", str(tmp_path), *SMALL]) == 2
    assert "6 different text files are needed, 1 were found" in capsys.readouterr().err


SCRIPT = """
import builtins, sys
blocked = {blocked!r}
real = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = str((globals or {{}}).get("__name__", "")).split(".")[0]
    if level == 0 and name.split(".")[0] in blocked and importer in ("engine", "benchmarks"):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
from benchmarks.random_model import SHAPES
from benchmarks.trace import main
SHAPES["qwen3-0.6b"] = {shape!r}
sys.exit(main(["--random-shape", "qwen3-0.6b", *{small!r}, "--repeat", "1"]) or main(["--model", *{model!r}]))
"""


def test_it_needs_nothing_but_torch_and_transformers() -> None:
    """Neither engine nor benchmark imports another package on the way; what transformers needs is its own business."""
    blocked = {"fastapi", "filelock", "gguf", "httpx", "huggingface_hub", "platformdirs", "psutil", "pygls", "uvicorn"}
    model = (str(tiny_model("llama")), *SMALL, "--repeat", "1")
    script = SCRIPT.format(blocked=blocked, shape=TINY_SHAPE, small=SMALL, model=model)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("all as they must be") == 2


# -- what the checks and the figures are made of ---------------------------------------------------------------------


def answer(seconds: float = 1.0, text: str = "a", labels: Labels | None = None) -> Answer:
    return Answer(seconds, seconds / 2, None, computed=10, reused=5, text=text, gap=0.25, labels=labels)


def sample(side: str, number: int = 0, **fields: Any) -> Sample:
    return Sample(number, "open 6 files", side, Change(), answer(**fields))


def test_ratios_are_taken_within_a_round() -> None:
    seconds = {PEER: (4.0, 40.0, 6.0), EXACT: (2.0, 10.0, 1.0)}
    samples = [sample(side, number, seconds=seconds[side][number]) for number in range(3) for side in (PEER, EXACT)]
    peer, exact = rows(samples, PEER)
    assert (peer.first_token, peer.times_faster) == (6.0, 1.0)
    assert (exact.first_token, exact.cpu, exact.times_faster) == (2.0, 1.0, 4.0)
    assert exact.samples == (2.0, 10.0, 1.0)


def test_differing_first_tokens_are_reported_once() -> None:
    samples = [sample(side, number, text=text) for number in (0, 1) for side, text in ((PEER, "a"), (EXACT, "b"))]
    assert differences(samples, PEER, [EXACT]) == [
        "open 6 files: exact 'b', transformers 'a' (its next best is 0.25 lower)"
    ]
    assert differences(samples, PEER, [INSTANT]) == []


def test_wrong_labels_are_reported() -> None:
    steps = editing_trace(FILES)
    names = [file.name for file in FILES]
    right: Labels = dict.fromkeys(names, FidelityLabel.EXACT)
    wrong: Labels = {**right, names[2]: FidelityLabel.NEAR}
    fine = [sample(PEER), *(sample(side, labels=right) for side in (EXACT, PAUSED, INSTANT, AUTO))]
    assert wrong_labels(fine, steps, INSTANT, AUTO) == []
    for side in (EXACT, PAUSED, INSTANT, AUTO):
        (problem,) = wrong_labels([sample(side, labels=wrong)], steps, INSTANT, AUTO)
        assert problem.startswith(f"open 6 files: {side} ")
        assert f"{names[2]} near" in problem


def test_auto_may_be_exact_at_one_step_and_not_at_the_next() -> None:
    steps = editing_trace(FILES)[:2]
    exact: Labels = dict.fromkeys((file.name for file in FILES), FidelityLabel.EXACT)
    near: Labels = dict.fromkeys(exact, FidelityLabel.NEAR)
    for labels in (exact, near):
        samples = [
            Sample(0, step.name, AUTO, Change(), answer(labels=given))
            for step, given in zip(steps, (exact, labels), strict=True)
        ]
        assert wrong_labels(samples, steps, INSTANT, AUTO) == []
    assert wrong_labels([replace(samples[1], side=EXACT)], steps, INSTANT, AUTO) != []


def test_what_was_anchored_may_be_computed_anew() -> None:
    steps = editing_trace(FILES)
    names = [file.name for file in steps[-1].files]
    near: Labels = dict.fromkeys(names, FidelityLabel.NEAR)
    for labels, fine in (
        ({**near, names[1]: FidelityLabel.ANCHORED}, True),
        (near, True),
        ({**near, names[2]: FidelityLabel.ANCHORED}, False),
    ):
        last = Sample(0, steps[-1].name, INSTANT, Change(), answer(labels=labels))
        assert (wrong_labels([last], steps, INSTANT, AUTO) == []) == fine
