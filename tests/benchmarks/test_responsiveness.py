"""Cheap requests are sent to a real server while its engine works; the report tells what each kind took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.responsiveness import Report, Sample, main
from tests.tiny_models import tiny_model


def test_every_kind_is_asked_idle_and_busy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    model = ("--model", str(tiny_model("qwen2")), "--device", "cpu", "--threads", "1")
    assert main([*model, "--characters", "400", "--rounds", "2", "--json", str(path)]) in (0, 1)
    report = json.loads(path.read_text())
    kinds = {sample["kind"] for sample in report["samples"]}
    assert kinds >= {"ctx/status", "ctx/chunks", "ctx/slash/complete", "$/cancelRequest"}
    counts = {(kind, busy): 0 for kind in kinds for busy in (False, True)}
    for sample in report["samples"]:
        counts[sample["kind"], sample["busy"]] += 1
    assert set(counts.values()) == {2}
    assert "ctx/status" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "/no/such/model"]) == 2
    assert "no/such/model" in capsys.readouterr().err


def test_only_medians_beside_work_count_for_the_goal() -> None:
    samples = [Sample("slow", True, seconds) for seconds in (0.06, 0.06, 0.01)]
    samples += [Sample("fine", True, seconds) for seconds in (0.01, 0.01, 9.0)]
    samples += [Sample("fine", False, 1.0), Sample("slow", False, 0.0)]
    report = Report("", {}, {}, tuple(samples), 7)
    assert report.slow == ["slow"]
    assert "missed by slow" in str(report)
