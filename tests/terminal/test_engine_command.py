"""`ctx-lsp engine` where there is nothing to talk to; with a real engine it is tried in test_real_server.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ctx_lsp.cli import engine as engine_command
from engine.serve import runtime_file


@pytest.fixture
def runtime_folder(tmp_path, monkeypatch):
    folder = tmp_path / "runtime"
    monkeypatch.setenv(runtime_file.FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture
def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write(folder, pid):
    info = runtime_file.RuntimeInfo("http://127.0.0.1:9", "token", pid, "tiny", "0.1.0", 0.0)
    runtime_file.write(folder / "engine-tiny.json", info)


@pytest.mark.parametrize("command", [engine_command.status, engine_command.stop])
def test_nothing_runs(runtime_folder, command):
    said: list[str] = []
    assert command(said.append) == 0
    assert said == ["No engine is running."]


@pytest.mark.parametrize("command", [engine_command.status, engine_command.stop])
def test_what_a_dead_engine_left_behind_does_not_count(runtime_folder, dead_process, command):
    write(runtime_folder, dead_process)
    said: list[str] = []
    assert command(said.append) == 0
    assert said == ["No engine is running."]
