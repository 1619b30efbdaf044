"""The benchmark of quantized decoding, dry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import quantized_decode
from tests.tiny_models import tiny_model


def test_it_compares_all_ways_with_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "smollm2-135m", "--texts", "1", "--prompt", "70", "--tokens", "20"]
    assert quantized_decode.main([*options, "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "Matrices: 210 q4, 1 q8" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert [sample["weights"] for sample in found["samples"]] == ["packed", "packed, prompt too", "dequantized"]
    assert all(0 < sample["divergence"]["kl"] < 0.02 for sample in found["samples"])


def test_a_model_without_packed_weights_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert quantized_decode.main(["--model", str(tiny_model("llama")), "--texts", "1"]) == 2
    assert "no packed weights" in capsys.readouterr().err
