"""Forecasts are compared with what was measured, kind by kind, and the bar decides how the benchmark ends."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import SourceFile
from benchmarks.forecast import BAR, LEARNING, LOADED, Report, Sample, main
from benchmarks.questions import questions
from benchmarks.speeds import own_speeds
from benchmarks.table import percentile
from engine import Engine, EngineConfig, SamplingParams
from engine.speed_file import FOLDER_VARIABLE
from tests.tiny_models import tiny_model

SMALL = ("--device", "cpu", "--dtype", "float32", "--threads", "1", "--file-tokens", "60")
KINDS = ["cold", "warm", "warm, long question"]
KINDS += [
    f"{change}, {way}" for change in ("edited", "dropped", "brought back", "moved") for way in ("instant", "exact")
]


def test_every_kind_is_foretold_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "forecast.json"
    more = ("--rounds", "2", "--warm-up", "3", "--json", str(path))
    assert main(["--model", str(tiny_model("qwen2")), *SMALL, *more]) in (0, 1)  # a tiny model's times are all noise
    samples = json.loads(path.read_text())["samples"]
    learning = [sample["kind"] for sample in samples if sample["phase"] == LEARNING]
    loaded = [sample["kind"] for sample in samples if sample["phase"] == LOADED]
    # of the first question nothing can be foretold, three more only teach; what was learned is there from the first on
    assert learning == [*KINDS, *KINDS][4:]
    assert loaded == [*KINDS, *KINDS]
    assert all(sample["predicted"] > 0 and sample["measured"] > 0 and sample["computed"] > 0 for sample in samples)
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith(("PASS", "FAIL"))
    for kind in KINDS:
        assert printed.count(f"{kind}  ") >= 2


def test_questions_leave_the_work_they_say(tmp_path: Path) -> None:
    model = EngineConfig(str(tiny_model("qwen2")), device="cpu", dtype="float32", refine=False, kv_cache_tokens=16384)
    files = [SourceFile(f"{name}.py", "".join(f"{name} = {n}\n" for n in range(90))) for name in ("a", "b", "c")]
    computed: dict[str, int] = {}
    with Engine(model) as engine:
        context = engine.context(order="fixed")
        for question in questions(context, files, lambda text: len(text) // 4, 60, random.Random(1)):
            plan = context.plan(question.text, fidelity=question.fidelity)
            *_, done = context.chat(question.text, SamplingParams(max_tokens=1), fidelity=question.fidelity)
            computed[question.kind] = plan.prefill
            assert done.usage.prefilled_tokens == plan.prefill  # type: ignore[union-attr]
    assert list(computed) == KINDS
    assert computed["cold"] > computed["warm, long question"] > computed["warm"]
    for change in ("edited", "dropped", "moved"):
        assert computed[f"{change}, exact"] >= computed[f"{change}, instant"] >= computed["warm"] // 2


def report(*errors: float) -> Report:
    samples = [Sample(phase, "warm", 10, 1 + error, 1.0) for phase in (LEARNING, LOADED) for error in errors]
    return Report("title", {}, {"device": "CPU"}, tuple(samples))


def test_the_bar_is_for_the_median() -> None:
    good, bad = report(0.1, 0.2, 0.9), report(0.1, 0.3, 0.4)
    assert good.passed
    assert good.error(LOADED) == pytest.approx(0.2)
    assert "PASS" in str(good)
    assert not bad.passed
    assert f"FAIL: median error learning 30.0%, loaded 30.0%; the bar is {BAR:.0%}." in str(bad)


def test_a_forecast_below_the_bar_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Report] = [report(0.1), report(0.5)]
    monkeypatch.setattr("benchmarks.forecast.run", lambda options: found.pop(0))
    assert [main([]), main([])] == [0, 1]


def test_speeds_of_a_benchmark_stay_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "somewhere"):
        monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
        if before is not None:
            monkeypatch.setenv(FOLDER_VARIABLE, before)
        with own_speeds():
            folder: Any = os.environ[FOLDER_VARIABLE]
            assert folder != before
            assert Path(folder).is_dir()
        assert os.environ.get(FOLDER_VARIABLE) == before
        assert not Path(folder).exists()


def test_percentiles() -> None:
    assert [percentile([3, 1, 2], share) for share in (0, 0.34, 0.67, 1)] == [1, 2, 3, 3]
    assert percentile(range(1, 11), 0.9) == 9
    assert percentile([5], 0.9) == 5
