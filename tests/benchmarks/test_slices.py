"""Questions beside the background are compared with those without, for slices sized by speed and for fixed ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.slices import SIZED, Report, Sample, main
from tests.tiny_models import tiny_model


def test_both_ways_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "slices.json"
    options = (
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--threads",
        "1",
        "--background-tokens",
        "1500",
        "--rounds",
        "2",
    )
    more = ("--slice-tokens", "100", "--json", str(path))
    assert main(["--model", str(tiny_model("qwen2")), *options, *more]) == 0
    report = json.loads(path.read_text())
    assert [(sample["slices"], sample["busy"]) for sample in report["samples"]] == [
        (name, busy) for name in (SIZED, "100 tokens") for busy in (False, False, True, True)
    ]
    assert report["tokens"] >= 128
    assert "100 tokens" in capsys.readouterr().out


def test_waits_are_told_from_the_median_without_background() -> None:
    samples = [Sample("a", False, seconds) for seconds in (1.0, 2.0, 9.0)] + [Sample("a", True, 2.5)]
    assert Report("", {}, {}, (*samples, Sample("b", True, 1.0)), 128).waits("a") == [0.5]
