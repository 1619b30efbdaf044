"""The benchmarks of decoding, prefill and kernels run on a tiny model, and count and judge rightly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import decode, goals, kernels, prefill
from benchmarks.ceilings import H200, Ceilings, Work, measure
from benchmarks.decode_peers import EAGER, StaticStep, eager_step
from benchmarks.decode_report import FILTERED, MANY, ONE
from benchmarks.kernels_backends import make_backend
from benchmarks.kernels_cases import MOVED, Case, set_up
from benchmarks.outside import run_outside
from benchmarks.random_model import SHAPES, decoder_config, random_transformers
from tests.benchmarks.shapes import TINY_SHAPE

SMALL = ("--random-shape", "tiny", "--device", "cpu", "--dtype", "float32")


@pytest.fixture(autouse=True)
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY_SHAPE)


def reported(main: Callable[[Sequence[str]], int], folder: Path, *options: str) -> dict[str, Any]:
    """What a benchmark writes; it also draws."""
    result, drawn = folder / "result.json", folder / "drawn.svg"
    assert main([*SMALL, *options, "--json", str(result), "--plot", str(drawn)]) == 0
    assert "<svg" in drawn.read_text()
    found: dict[str, Any] = json.loads(result.read_text())
    again = folder / "again.svg"
    assert main(["--plot-from", str(result), str(again)]) == 0
    assert "<svg" in again.read_text()
    assert all(speed > 0 for speed in found["ceilings"].values())
    return found


def test_decode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(decode.main, tmp_path, "--threads", "1", "--contexts", "600", "1500", "--tokens", "10")
    rows = [(row["context"], row["layout"], row["answers"]) for row in found["rows"]]
    assert rows == [
        (context, *way)
        for context in (600, 1500)
        for way in ((ONE, 1), (MANY, 1), (FILTERED, 1), (MANY, 4), ("", 1))  # transformers last
    ]
    assert all(row["per_token"] > 0 and row["mean"] > 0 for row in found["rows"])
    prompts = {row["layout"]: row["prompt"] for row in found["rows"] if row["context"] == 1500}
    assert all(abs(tokens - 1500) < 500 for tokens in prompts.values())
    # 40 chunks were opened, and as many tokens are in the prompt as of 32
    assert prompts[FILTERED] == pytest.approx(prompts[MANY], rel=0.1)
    assert EAGER in capsys.readouterr().out


def test_prefill_cold_and_behind_a_prefix(tmp_path: Path) -> None:
    sizes = ("--tokens", "300", "1200", "--before", "2500", "--new", "200", "--repeat", "2")
    found = reported(prefill.main, tmp_path, "--threads", "1", *sizes)
    cold, behind = [ONE, MANY, "one pass"], [ONE, MANY, FILTERED, "DynamicCache"]
    assert [(row["tokens"], row["before"], row["layout"]) for row in found["rows"]] == [
        *((tokens, 0, layout) for tokens in (300, 1200) for layout in cold),
        *((200, 2500, layout) for layout in behind),
    ]
    assert all(len(row["samples"]) == 2 and row["first"] > 0 for row in found["rows"])
    # what could be shared was not counted, and the rest was all computed
    assert all(row["computed"] > 0.8 * row["tokens"] for row in found["rows"])
    assert all(row["computed"] < 2 * row["tokens"] for row in found["rows"] if row["before"])


def test_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--decode", "400", "--prefill", "32", "--behind", "0", "400")
    found = reported(kernels.main, tmp_path, *sizes)
    assert found["failed"] == []
    cases = [(row["case"]["new"], row["case"]["before"]) for row in found["rows"]]
    # three layouts and torch's own; from nothing one layout, behind others two
    assert cases == [(1, 400)] * 4 + [(32, 0)] * 2 + [(32, 400)] * 3
    of_one = next(row for row in found["rows"] if row["case"]["new"] == 1)
    assert of_one["read"] == 401 * 2 * 2 * 16 * 4
    causal = next(row for row in found["rows"] if row["case"]["before"] == 0)
    assert causal["flops"] == 4 * 4 * 16 * (32 * 33 // 2)
    assert "One new token" in capsys.readouterr().out


def test_moved_segments_lie_in_shuffled_blocks_partly_filled() -> None:
    case = Case(1, 3000, MOVED)
    stage = set_up(case, decoder_config("tiny"), 1, torch.device("cpu"), torch.float32)
    table = stage.row.table
    assert table.tokens == 3000
    assert len(set(table.block_ids.tolist())) == len(table.block_ids)
    assert (np.diff(table.block_ids) != 1).mean() > 0.5
    assert (table.deltas != 0).mean() > 0.5
    assert 0.1 < (table.valid < 64).mean() < 1
    assert stage.row.position == 3000


def test_a_timed_step_leaves_things_as_they_were() -> None:
    """So that it can be run over and over."""
    stage = set_up(Case(4, 700, MOVED), decoder_config("tiny"), 1, torch.device("cpu"), torch.float32)
    backend = make_backend("torch", stage.pool, stage.rotary, decoder_config("tiny").layers[:1])
    step = stage.run(backend)
    step()
    first = backend(0, *stage.qkv[0])
    step()
    assert torch.equal(first, backend(0, *stage.qkv[0]))


def test_a_static_step_goes_on_like_an_eager_one() -> None:
    model = random_transformers("tiny", torch.device("cpu"), torch.float32)
    torch.manual_seed(1)
    eager = eager_step(model, 50)
    torch.manual_seed(1)
    static = StaticStep(model, 50, 20)
    for _ in range(8):
        static.forward()
        assert int(static.token) == eager()


def test_the_work_of_a_known_shape() -> None:
    config = decoder_config("qwen2.5-7b")
    work = Work.of(config, torch.bfloat16)
    # 7.62 billion parameters, less the embedding, norms and biases
    assert work.layer_weights + work.head_weights == 7_615_616_512 - 152064 * 3584 - 3584 * 57 - 28 * (3584 + 1024)
    assert work.kv_bytes(1) == 57344
    assert work.decode_floor(H200, 8192) == pytest.approx(3.5e-3, rel=0.05)
    assert work.prefill_floor(H200, 8192) == pytest.approx(0.150, rel=0.05)
    assert work.prefill_floor(H200, 32768) == pytest.approx(0.86, rel=0.1)
    # a few tokens behind many are bound by what must be read
    assert work.prefill_floor(H200, 1, 8192) == work.decode_floor(H200, 8192)


def test_goals_are_scaled_by_the_ceiling_that_binds_them() -> None:
    half = replace(H200, copy=H200.copy / 2)
    assert goals.WARM.here(half) == pytest.approx(24e-3)
    assert goals.PREFILL[8192].here(half) == pytest.approx(0.2)
    assert goals.WARM.judge(20e-3, half).met
    assert not goals.WARM.judge(20e-3, H200).met
    assert "NOT MET" in str(goals.WARM.judge(20e-3, H200))
    assert not goals.RatioVerdict("a", 1.06, 1.05).met


def test_ceilings_are_plausible() -> None:
    found = measure(torch.device("cpu"), torch.float32)
    assert isinstance(found, Ceilings)
    assert 1e8 < found.copy < 1e13
    assert 1e8 < found.matmul < 1e15


def test_a_peer_outside_is_stopped_in_time_and_what_it_said_is_kept(tmp_path: Path) -> None:
    for name, end in (("fine", ""), ("slow", "time.sleep(60)"), ("broken", "raise SystemExit(3)")):
        (tmp_path / f"{name}_peer.py").write_text(
            f"import time\nprint('{{\"a\": 1}}', flush=True)\nprint('x')\n{end}\n"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        assert run_outside("fine_peer", [], 30) == ([{"a": 1}], None)
        found, problem = run_outside("slow_peer", [], 3)
        assert found == [{"a": 1}]
        assert problem == "stopped after 3 s"
        found, problem = run_outside("broken_peer", [], 30)
        assert (found, problem) == ([{"a": 1}], "ended with status 3")


def test_what_cannot_run_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert decode.main([*SMALL, "--contexts", "9000000"]) == 2
    assert "benchmarks.decode: " in capsys.readouterr().err
