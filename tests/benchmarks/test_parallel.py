"""The random models that several GPUs share are one model, and what decoding takes is told by their number."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import parallel
from benchmarks.random_model import SHAPES, load_random_shard, make_random_decoder
from tests.benchmarks.shapes import TINY_SHAPE
from tests.engine.ranks import logits_of, logits_of_ranks


def test_all_ranks_make_parts_of_the_same_model() -> None:
    expected = logits_of(make_random_decoder(TINY_SHAPE, torch.device("cpu"), torch.float32)[0])
    for found in logits_of_ranks(partial(load_random_shard, fields=TINY_SHAPE, dtype=torch.float32), 2):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_decoding_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY_SHAPE)
    result = tmp_path / "result.json"
    options = ["--random-shape", "tiny", "--device", "cpu", "--dtype", "float32", "--threads", "1"]
    sizes = ["--sizes", "1", "--contexts", "600", "--tokens", "6"]
    assert parallel.main([*options, *sizes, "--json", str(result)]) == 0
    rows = json.loads(result.read_text())["rows"]
    assert [row["gpus"] for row in rows] == [1] * 4
    assert all(row["per_token"] > 0 for row in rows)
