"""Starts of real processes are measured; the report tells what each was taken up with, and which goals were missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.resident import Resident, parse
from benchmarks.start import CHAT, ENGINE, SERVER, Memory, Report, Start, main
from benchmarks.start_chat import FIRST, Moment, stages
from engine.serve.stages import Stage
from tests.tiny_models import tiny_model


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
def test_every_start_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    model = ("--model", str(tiny_model("qwen2")), "--device", "cpu", "--threads", "1")
    few = ("--characters", "400", "--context-tokens", "300", "--rounds", "1")
    assert main([*model, *few, "--json", str(path)]) in (0, 1)
    report = json.loads(path.read_text())
    assert [(start["name"], len(start["runs"])) for start in report["starts"]] == [(SERVER, 1), (ENGINE, 1), (CHAT, 1)]
    engine, chat = ({stage["message"] for stage in start["runs"][0]} for start in report["starts"][1:])
    assert {"starting", "importing the tensor library", "Loading weights", "Reading the tokenizer"} <= engine
    assert FIRST in chat
    idle, full = report["memory"]
    assert (idle["tokens"], full["tokens"] >= 300) == (0, True)
    assert 0 < idle["resident"]["anonymous"] <= full["resident"]["now"] <= full["resident"]["peak"]
    assert ENGINE in capsys.readouterr().out


def test_a_model_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "/no/such/model"]) == 2
    assert "no/such/model" in capsys.readouterr().err


def test_what_the_command_says_makes_its_stages() -> None:
    said = [
        Moment("Waiting for the engine to answer (process 17)", 1.0),
        Moment("Loading weights (0%)", 2.0),
        Moment("Loading weights (50%)", 2.25),
        Moment("Reading the context, 12 of 1,034 tokens (1%)", 2.5),
        Moment("Reading the context, 800 of 1,034 tokens (77%)", 3.5),
    ]
    assert stages(said, end=5.0) == (
        Stage(FIRST, 1.0),
        Stage("Waiting for the engine to answer", 1.0),
        Stage("Loading weights", 0.5),
        Stage("Reading the context", 2.5),
    )


def test_memory_is_read_as_linux_says_it() -> None:
    rollup = (
        "00400000-7ffd000 ---p 00000000 00:00 0    [rollup]\n"
        "Rss:                100 kB\nPrivate_Clean:       30 kB\n"
        "Private_Dirty:       20 kB\nAnonymous:           15 kB\n"
    )
    status = "Name:\tpython\nVmHWM:\t     120 kB\nVmRSS:\t     100 kB\n"
    assert parse(rollup, status) == Resident(now=102400, peak=122880, private=51200, anonymous=15360)


def report(starts: tuple[Start, ...], peak: float) -> Report:
    return Report("", {}, {}, starts, (Memory(0, Resident(1, int(peak), 1, 1)),))


def test_medians_and_the_peak_count_for_the_goals() -> None:
    quick = Start(SERVER, tuple((Stage("answered", seconds),) for seconds in (0.9, 0.8, 7.0)))
    slow = Start(
        ENGINE, tuple((Stage("starting", 1.0), Stage("Loading weights", seconds)) for seconds in (4.1, 4.2, 0))
    )
    chat = Start(CHAT, ((Stage(FIRST, 99.0),),))
    assert report((quick, slow, chat), peak=2.4e9).missed == [ENGINE]
    assert report((quick, chat), peak=2.6e9).missed == ["memory"]
    assert "all met" in str(report((quick, chat), peak=2.4e9))


def test_stages_stand_below_what_they_make_up() -> None:
    first, second = (Stage("starting", 1.0), Stage("Loading weights", 2.0)), (Stage("starting", 3.0),)
    assert Start(ENGINE, (first, second)).lines() == [
        [ENGINE, "2", "3.00", "3.00", "3.00"],
        ["  starting", "", "2.00", "1.00", "3.00"],
        ["  loading weights", "", "1.00", "0.00", "2.00"],
    ]
