"""`ctx-engine` as a process: starting, starting twice, failing, idling, signals, and what is left behind (nothing)."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine import __version__
from engine.serve import main as main_module
from engine.serve import runtime_file
from tests.serve.processes import FAKE, ROOT, Process, started
from tests.serve.serving import chat_body, sse_events, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.json*") if path.suffix != ".lock"]


def test_it_serves_and_says_where(folder: Path) -> None:
    with started(folder, "--model", "fake") as process:
        info = process.info()
        assert (info.pid, info.model, info.version) == (process.popen.pid, "fake", __version__)
        (path,) = folder.glob("*.json")
        assert path.name.startswith("engine-fake-")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        process.until_status("ready")
        with process.client() as client:
            answer = client.post("/v1/chat/completions", json=chat_body(model="fake")).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert info.token not in process.log.read_text()


def test_the_runtime_file_is_there_before_the_model(folder: Path) -> None:
    with started(folder, "--model", "slow") as process:
        health = process.until_status("loading")
        assert health["pid"] == process.popen.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("model", ["fake", "slow"])
def test_signals_end_it_cleanly(folder: Path, number: signal.Signals, model: str) -> None:
    with started(folder, "--model", model) as process:
        process.until_status("loading" if model == "slow" else "ready")
        os.kill(process.popen.pid, number)
        assert process.wait() == 0
    assert left_behind(folder) == []


def test_a_signal_ends_running_answers_and_open_streams(folder: Path) -> None:
    with started(folder, "--model", "endless") as process:
        process.until_status("ready")
        with (
            process.client() as client,
            process.client() as listener,
            client.stream("POST", "/v1/chat/completions", json=chat_body(model="endless", stream=True)) as answer,
            listener.stream("GET", "/v1/events") as events,
        ):
            answers = sse_events(answer.iter_lines())
            next(answers)
            process.popen.terminate()
            assert [data for _name, data in answers][-1] == "[DONE]"
            assert next(events.iter_lines()) == ": listening"
        assert process.wait() == 0
    assert left_behind(folder) == []


def test_it_ends_when_nobody_is_there(folder: Path) -> None:
    with started(folder, "--model", "fake", "--idle-timeout", "0.5") as process:
        assert process.wait() == 0
        assert "no client for" in process.log.read_text()
    assert left_behind(folder) == []


def test_it_stays_while_somebody_is_there(folder: Path) -> None:
    with started(folder, "--model", "fake", "--idle-timeout", "3") as process:
        with process.client() as client, client.stream("GET", "/v1/events") as events, process.client() as other:
            lines = events.iter_lines()
            next(lines)
            until(lambda: other.get("/health").json()["status"] == "ready")
            assert process.popen.poll() is None
        assert process.wait() == 0


def test_a_client_may_end_it(folder: Path) -> None:
    with started(folder, "--model", "fake") as process:
        with process.client() as client:
            assert client.post("/v1/shutdown").status_code == 200
        assert process.wait() == 0
    assert left_behind(folder) == []


def test_an_engine_that_does_not_stop_is_ended_all_the_same(folder: Path) -> None:
    with started(folder, "--model", "stuck") as process:
        process.until_status("ready")
        process.popen.terminate()
        assert process.wait() == 1
        assert "did not stop in time" in process.log.read_text()
    assert left_behind(folder) == []


def test_starting_twice_finds_the_first(folder: Path) -> None:
    with started(folder, "--model", "fake") as first:
        info = first.info()
        with started(folder, "--model", "fake") as second:
            assert second.wait() == 0
            assert info.url in second.log.read_text()
            assert info.token not in second.log.read_text()
        with started(folder, "--model", "fake", "--max-context", "99") as other:
            assert other.info().url != info.url
        assert first.info() == info


def test_starting_many_at_once_leaves_one(folder: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(started(folder, "--model", "fake")) for _ in range(4)]
        until(lambda: sum(process.popen.poll() is None for process in processes) == 1)
        (winner,) = (process for process in processes if process.popen.poll() is None)
        assert [process.popen.poll() for process in processes if process is not winner] == [0, 0, 0]
        assert winner.until_status("ready")["pid"] == winner.popen.pid


def test_a_runtime_file_of_its_own_makes_an_engine_of_its_own(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "elsewhere" / "engine.json"
    arguments = ("--model", "fake", "--runtime-file", str(own))
    with started(folder, "--model", "fake") as first, started(folder, *arguments) as second:
        until(own.exists)
        info = runtime_file.read(own)
        assert info is not None
        assert (info.pid, stat.S_IMODE(own.stat().st_mode)) == (second.popen.pid, 0o600)
        assert first.info().url != info.url
        second.popen.terminate()
        assert second.wait() == 0
    assert not own.exists()


def test_the_file_of_an_engine_that_was_killed_is_replaced(folder: Path) -> None:
    with started(folder, "--model", "fake") as killed:
        before = killed.info()
        killed.popen.kill()
        killed.wait()
        (path,) = folder.glob("*.json")
        assert runtime_file.read(path) == before
        assert runtime_file.find_live(path) is None
        with started(folder, "--model", "fake") as next_one:
            assert next_one.until_status("ready")["pid"] == next_one.popen.pid
            assert runtime_file.read(path) == next_one.info() != before


def test_a_runtime_file_that_was_cleaned_away_comes_back(folder: Path) -> None:
    with started(folder, "--model", "fake") as process:
        info = process.info()
        (path,) = folder.glob("*.json")
        path.unlink()
        assert process.info() == info


def failed(process: Process) -> str:
    return str(process.until_status("failed")["message"])


def test_a_model_that_cant_be_had(folder: Path) -> None:
    with started(folder, "--model", "broken", "--idle-timeout", "3") as process:
        assert failed(process) == "there is no model 'broken': name one of fake, endless"
        assert process.wait() == 1
        assert "there is no model 'broken'" in process.log.read_text()
    assert left_behind(folder) == []


def test_a_failed_engine_makes_room_for_the_next(folder: Path) -> None:
    with started(folder, "--model", "broken") as first:
        failed(first)
        with started(folder, "--model", "broken") as second:
            assert first.wait() == 1
            failed(second)
            second.popen.terminate()
            assert second.wait() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dtype", "int8"],
        ["--kv-dtype", "int4"],
        ["--attention", "mine"],
        ["--idle-timeout", "-1"],
        ["--idle-timeout", "nan"],
        ["--threads", "0"],
        ["--tensor-parallel-size", "0"],
        ["--kv-cache-tokens", "many"],
        ["--no-such-option"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main_module.main(arguments)
    assert exit_.value.code == 2
    assert "ctx-engine: error:" in capsys.readouterr().err


def test_a_port_that_is_taken(folder: Path) -> None:
    with started(folder, "--model", "fake") as first:
        port = first.info().url.rpartition(":")[2]
        with started(folder, "--model", "endless", "--port", port) as second:
            assert second.wait() == 1
            assert f"can't listen on 127.0.0.1, port {port}" in second.log.read_text()
    assert len(left_behind(folder)) == 1  # the first was killed


def test_a_folder_that_cant_be_trusted(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with started(folder, "--model", "fake") as process:
        assert process.wait() == 1
        assert "yours alone" in process.log.read_text()


def test_logging_to_a_file(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with started(folder, "--model", "fake", "--log-file", str(log)) as process:
        process.until_status("ready")
        assert "ready: fake on cpu" in log.read_text()
        assert process.log.read_text() == ""


def test_the_version() -> None:
    command = [sys.executable, "-m", FAKE, "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == f"ctx-engine {__version__}"
