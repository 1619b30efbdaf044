"""The terminal with the real server and the real engine, over a small random model: the whole way and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.terminal.terminals import PtyTerminal, run_piped
from tests.tiny_models import tiny_model

CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Environment in which all tests here share one engine, which ends with them."""
    folder = tmp_path_factory.mktemp("engine")
    environment: dict[str, Any] = {"CTX_LSP_RUNTIME_DIR": str(folder / "runtime"), "OMP_NUM_THREADS": "1"}
    yield environment
    run_piped(["engine", "stop"], folder, **environment)


@pytest.fixture(scope="module")
def model() -> list[str]:
    return ["--model", str(tiny_model("qwen2")), "--device", "cpu"]


@pytest.fixture
def chat(home: Path, workspace: Path, engine: dict[str, str], model: list[str]):
    def run(*arguments: str, **more):
        return run_piped(["chat", *model, *arguments], home, cwd=workspace, **engine, **more)

    return run


@pytest.fixture
def open_real(open_chat: Callable[..., PtyTerminal], engine: dict[str, str], model: list[str]):
    return lambda *arguments: open_chat(*model, *arguments, server=None, **engine)


def test_an_answer_over_files_with_all_its_figures(chat, workspace):
    done = chat("retry.py", "store.py", "--ask", "how often?", "--max-tokens", "6", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    usage = answer["usage"]
    assert usage["prompt_tokens"] == usage["reused_tokens"] + usage["prefilled_tokens"]
    assert 1 <= usage["completion_tokens"] <= 6
    assert [chunk["name"] for chunk in answer["chunks"]] == ["retry.py", "store.py"]
    assert answer["fidelity"] == "exact"
    assert answer["context"]["active_tokens"] == sum(chunk["tokens"] for chunk in answer["loaded"])
    assert answer["timing"]["time_to_first_token"] > 0


def test_a_second_terminal_reuses_the_engine_and_the_kv_of_equal_files(chat):
    ask = ("retry.py", "store.py", "--ask", "how often?", "--max-tokens", "6", "--json")
    first, second = json.loads(chat(*ask).stdout), json.loads(chat(*ask).stdout)
    assert second["answer"] == first["answer"]
    assert second["usage"]["reused_tokens"] >= sum(chunk["tokens"] for chunk in second["chunks"])


def test_without_files_the_workspace_is_loaded_but_not_what_is_no_text(chat):
    answer = json.loads(chat("--ask", "hm?", "--max-tokens", "2", "--json").stdout)
    assert sorted(chunk["name"] for chunk in answer["loaded"]) == ["retry.py", "store.py"]


def test_a_question_beyond_the_window_is_one_clear_error(chat):
    done = chat("--no-files", "--ask", "-", "--json", stdin="value = 123456789\n" * 3000)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (1, "context_full")
    assert error["data"]["needed"] > error["data"]["limit"] == 4096


def test_a_file_beyond_the_window_is_named_with_the_reason(chat, workspace):
    (workspace / "long.py").write_text("value = 123456789\n" * 3000)
    done = chat("retry.py", "long.py", "--ask", "hm?", "--max-tokens", "2")
    assert done.returncode == 0
    assert "not loaded: long.py (" in done.stderr


def test_a_model_that_is_not_there_is_one_clear_error(home, workspace, engine):
    done = run_piped(
        ["chat", "--model", "./no-such-model", "--no-files", "--ask", "hm?", "--json"], home, cwd=workspace, **engine
    )
    assert done.returncode == 1
    assert "no-such-model" in json.loads(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr


def test_a_conversation_from_welcome_to_goodbye(open_real):
    chat = open_real("retry.py", "--max-tokens", "8")
    chat.expect(r"on cpu · 1 file · \d+ of 4,096 tokens")
    chat.expect("❯")
    chat.send("how often?" + ENTER)
    chat.expect(r"\d+ tokens reused · \d+ prefilled · \d+ generated · first token \d.* tok/s · exact")
    chat.expect("❯")
    chat.send("/context" + ENTER)
    chat.expect(r"retry\.py +\d+ +exact")
    chat.expect("❯")
    chat.send(CTRL_D)
    assert chat.wait() == 0


def test_ctrl_c_stops_the_engine_too(open_real):
    chat = open_real("--no-files")
    chat.expect("❯")
    chat.send("count" + ENTER)
    chat.expect("count.{300}")
    chat.send(CTRL_C)
    chat.expect("stopped.*❯")
    chat.send("/plan next" + ENTER)
    chat.expect("The prompt has")
    chat.expect("❯")
    chat.send(CTRL_D)
    assert chat.wait() == 0


def test_slash_commands_complete_paths_of_the_workspace(open_real):
    chat = open_real("--no-files")
    chat.expect("❯")
    chat.send("/load ret")
    chat.expect(r"retry\.py")
    chat.send("\t" + ENTER)
    chat.expect("/load retry.py.*❯")
    chat.send("/context" + ENTER)
    chat.expect(r"retry\.py +\d+")


def test_engines_are_listed_and_ended(chat, home, engine):
    assert chat("--no-files", "--ask", "hm?", "--max-tokens", "1").returncode == 0
    listed = run_piped(["engine", "status"], home, **engine).stdout
    assert f"{tiny_model('qwen2')} · cpu · ready · process " in listed
    ended = run_piped(["engine", "stop"], home, **engine)
    assert (ended.returncode, "Ended" in ended.stdout) == (0, True)
    assert run_piped(["engine", "status"], home, **engine).stdout == "No engine is running.\n"
