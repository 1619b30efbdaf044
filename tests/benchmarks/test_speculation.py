"""Every kind of answer is given with and without drafts, and scripted drafts are right as often as the script says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.scripted_drafts import scripted_drafts
from benchmarks.speculation import BAR, FRESH, Report, Sample, main
from engine import Engine, EngineConfig, SamplingParams
from engine.types import ChatDone
from tests.engine.test_speculation import eager
from tests.tiny_models import tiny_model

SMALL = ("--device", "cpu", "--dtype", "float32", "--threads", "1", "--file-tokens", "60", "--answer-tokens", "80")


def test_every_kind_of_answer_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "drafts.json"
    more = ("--rounds", "2", "--warm-up", "0", "--json", str(path))
    assert main(["--model", str(tiny_model("qwen2", seed=2)), *SMALL, *more]) in (
        0,
        1,
    )  # a tiny model's times are noise
    samples = json.loads(path.read_text())["samples"]
    cases = ["told to repeat a file", *(f"drafts {right}% right" for right in (100, 90, 70, 50)), FRESH]
    assert [sample["case"] for sample in samples] == cases * 2
    assert all(sample["plain"] > 0 and sample["drafting"] > 0 and sample["processor"] > 0 for sample in samples)
    assert all(sample["accepted"] <= sample["drafted"] for sample in samples)
    assert capsys.readouterr().out.splitlines()[-1].startswith(("PASS", "FAIL"))


@pytest.mark.parametrize(("right", "least", "most"), [(1.0, 1.0, 1.0), (0.5, 0.05, 0.6), (0.0, 0.0, 0.0)])
def test_scripted_drafts_are_right_as_often_as_it_is_said(right: float, least: float, most: float) -> None:
    config = EngineConfig(str(tiny_model("llama")), device="cpu", dtype="float32", kv_cache_tokens=4096)
    with Engine(config) as engine, scripted_drafts(eager(engine), right, seed=1):
        *_, done = engine.chat([{"role": "user", "content": "?"}], SamplingParams(max_tokens=200))
        stats = engine.stats()
    assert isinstance(done, ChatDone)
    assert done.usage.completion_tokens == 200
    assert stats.tokens_drafted > 100
    assert least <= stats.tokens_accepted / stats.tokens_drafted <= most


@pytest.mark.parametrize(("ratio", "device", "passed"), [(0.98, "GPU", True), (0.9, "GPU", False), (0.9, "CPU", True)])
def test_the_bar_is_on_what_repeats_nothing_and_on_processor_time_where_it_is_shared(
    ratio: float, device: str, passed: bool
) -> None:
    samples = (Sample(FRESH, 100, 100 * ratio, 1 - BAR / 2, 50, 3, 0), Sample("another", 100, 10, 0.1, 50, 3, 0))
    assert Report("", {}, {"device": device}, samples).passed == passed
