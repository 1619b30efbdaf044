"""What KV in 8 bits costs, measured on a tiny model: every way of keeping it is there, and none is without a loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.divergence import Divergence
from benchmarks.kv_dtype import main
from benchmarks.kv_roundings import ROUNDINGS, fp8, int8, int8_by_channel
from engine.kv.pool import SCALED_DTYPES, KVPool
from tests.tiny_models import tiny_model


def test_every_way_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "kv.json"
    sizes = ("--sets", "1", "--files", "1", "--answer-tokens", "3")
    assert main(["--model", str(tiny_model("qwen2")), "--roundings", *sizes, "--json", str(written)]) == 0
    samples = json.loads(written.read_text(encoding="utf-8"))["samples"]
    ways = [*SCALED_DTYPES, *(rounding.name for rounding in ROUNDINGS)]
    assert [(sample["kv"], sample["question"]) for sample in samples] == [
        (way, kind) for way in ways for kind in ("single", "cross")
    ]
    kl = {sample["kv"]: sample["divergence"]["kl"] for sample in samples}
    assert all(0 < value < 0.1 for value in kl.values())
    assert kl["int8"] < kl["fp8"]
    printed = capsys.readouterr().out
    assert all(way in printed for way in ways)


def test_a_model_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "./nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "rounded"), [("fp8", fp8), ("int8", int8)])
def test_roundings_are_what_the_engines_pools_do(name: str, rounded) -> None:
    k, v = torch.randn(2, 5, 2, 16).mul_(9)
    pool = KVPool([(2, 16)], 1, 8, dtype=SCALED_DTYPES[name], device=torch.device("cpu"))
    torch.testing.assert_close(pool.write(0, torch.arange(5), k, v), (rounded(k), rounded(v)))


def test_a_channels_scale_is_its_own() -> None:
    x = torch.randn(70, 2, 4) * torch.tensor([1000.0, 1.0, 1.0, 1e-3])
    assert ((int8_by_channel(x) - x).abs() <= 0.005 * x.abs().amax(0)).all()


def test_divergence_of_the_same_and_of_others() -> None:
    right = torch.randn(6, 9)
    none = Divergence.of(right, right, 3)
    assert none.kl == pytest.approx(0, abs=1e-6)
    assert none.top1 == 1
    assert none.same_answer
    other = right.clone()
    other[1] = right[1].roll(1)
    found = Divergence.of(other, right, 3)
    assert found.kl > 0
    assert found.top1 == pytest.approx(5 / 6)
    assert found.same_answer
    assert not Divergence.of(other, right, 4).same_answer
