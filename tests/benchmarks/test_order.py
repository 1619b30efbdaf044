"""Both orders go through the same session on a tiny model; what it counts is what the engine computed."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.idle import Pauses
from benchmarks.order import main
from benchmarks.play import Way, play
from benchmarks.session import session
from engine import Engine, SamplingParams
from engine.config import EngineConfig
from engine.model import LoadedModel, load_model
from engine.types import ChatDone, FidelityLabel
from tests.benchmarks.files import FILES
from tests.benchmarks.test_session import FILES as SESSION_FILES
from tests.tiny_models import tiny_model

SMALL = ("--device", "cpu", "--dtype", "float32", "--threads", "1", "--file-tokens", "60", "--steps", "40")
CONFIG = EngineConfig(device="cpu", dtype="float32", threads=1, kv_cache_tokens=32768, slice_tokens=64)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(EngineConfig(str(tiny_model("llama")), device="cpu", dtype="float32", kv_cache_tokens=32768))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], str]:
    """What the command prints, its JSON and its plot."""
    folder = tmp_path_factory.mktemp("order")
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *values, **_: printed.append(" ".join(map(str, values))))
        written = ("--json", str(folder / "order.json"), "--plot", str(folder / "order.svg"))
        assert main(["--model", str(tiny_model("qwen2")), *SMALL, *written]) == 0
    return "\n".join(printed), json.loads((folder / "order.json").read_text()), (folder / "order.svg").read_text()


def test_every_way_is_played_in_both_orders(result: tuple[str, dict[str, Any], str]) -> None:
    printed, report, drawn = result
    played = [(one["way"]["fidelity"], one["order"]) for one in report["played"]]
    assert played == [(fidelity, order) for fidelity in ("exact", "instant", "auto") for order in ("recency", "fixed")]
    assert drawn.count("recency, with the background") == 1
    for one in report["played"]:
        assert len(one["background"]) == 40
        assert len(one["answers"]) == report["actions"]["ask"]
        computed = sum(answer["computed"] for answer in one["answers"])
        assert f"{computed:,}  " in printed
        idle = one["way"]["pause"] is None
        assert (sum(one["background"]) == 0) == idle
        if one["way"]["fidelity"] == "exact":
            assert all(answer["exact"] for answer in one["answers"])


def test_exact_answers_cost_less_when_the_edited_file_is_last(result: tuple[str, dict[str, Any], str]) -> None:
    recency, fixed = (one for one in result[1]["played"] if one["way"]["fidelity"] == "exact")
    again = [
        (one["computed"], other["computed"])
        for one, other in zip(recency["answers"], fixed["answers"], strict=True)
        if one["occasion"] == "same file edited"
    ]
    assert again
    assert sum(one for one, _ in again) < sum(other for _, other in again) / 2


def test_without_matplotlib_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    path = tmp_path / "order.svg"
    assert main(["--model", str(tiny_model("qwen2")), *SMALL, "--steps", "10", "--plot", str(path)]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert not path.exists()


def test_files_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "only.py").write_text("x = 1\n")
    assert main(["--files", str(tmp_path), *SMALL]) == 2
    assert "9 different text files are needed, 1 were found" in capsys.readouterr().err


def test_playing_twice_computes_the_same(model: LoadedModel) -> None:
    actions = session(SESSION_FILES, 30, seed=3)
    way = Way("instant, with pauses", "instant", pause=96)
    first, second = (play(model, CONFIG, actions, "recency", way) for _ in range(2))
    assert first.background == second.background
    assert sum(first.background) > 0
    assert [answer.computed for answer in first.answers] == [answer.computed for answer in second.answers]
    assert [answer.exact for answer in first.answers] == [answer.exact for answer in second.answers]


def test_a_pause_lets_the_background_compute_so_much_and_no_more(model: LoadedModel) -> None:
    with Engine(CONFIG, model=model) as engine:
        context = engine.context(order="fixed")
        pauses = Pauses(engine)
        for file in FILES:
            context.add_chunk(file.text, source=file.name)
        context.populate()
        whole = sum(info.tokens for info in context.chunks())
        for taken in (64, 128, 192):
            pauses.take(64)
            assert pauses.computed == engine.stats().tokens_prefilled == taken
        *_, done = context.chat("Why?", SamplingParams(max_tokens=1), fidelity="instant")
        assert isinstance(done, ChatDone)
        assert done.usage.prefilled_tokens > whole - 192 - 64
        assert pauses.computed == 192
        context.add_chunk(f"{FILES[0].text}# more\n", source=FILES[0].name)
        pauses.take(10)
        assert 192 < pauses.computed <= 192 + 64
        pauses.take(None)
        assert {info.fidelity for info in context.chunks() if info.active} == {FidelityLabel.EXACT}
        assert engine.stats().upkeep == 0
        engine.check_integrity()
