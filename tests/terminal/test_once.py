"""`ctx-lsp chat --ask`, run as a process with pipes against the fake server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.terminal.terminals import PATIENCE, environment, run_piped


@pytest.fixture
def ask(home, workspace, fake):
    def run(*arguments, **more):
        return run_piped(["chat", "--server", fake.command, *arguments], home, cwd=workspace, **more)

    return run


def test_prints_the_answer_alone_on_stdout(ask):
    done = ask("retry.py", "--ask", "how often?")
    assert done.returncode == 0
    assert done.stdout == (
        "It is set in `retry.py`:\n\n```python\nattempts = 5  # tries\n```\n\nYou asked: **how often?**\n"
    )
    assert "6 tokens reused · 12 prefilled · 16 generated · first token 0.25 s · 8.0 tok/s · near" in done.stderr


def test_progress_goes_to_stderr(ask):
    done = ask("retry.py", "--ask", "how often?")
    assert "Loading fake-model (50%)" in done.stderr
    assert "Loading files: done (100%)" in done.stderr
    assert "Loading" not in done.stdout


def test_json_is_one_object_with_answer_and_figures(ask):
    done = ask("retry.py", "--ask", "how often?", "--json")
    answer = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert answer["answer"].startswith("It is set in `retry.py`")
    assert answer["usage"] == {
        "prompt_tokens": 18,
        "reused_tokens": 6,
        "prefilled_tokens": 12,
        "completion_tokens": 16,
        "reasoning_tokens": 0,
    }
    assert answer["reasoning"] == ""
    assert answer["timing"]["time_to_first_token"] == 0.25
    assert answer["timing"]["tokens_per_second"] == 8.0
    assert (answer["fidelity"], answer["stop_reason"]) == ("near", "stop")
    assert (answer["model"], answer["device"]) == ("fake-model", "cpu")
    assert answer["context"] == {"active_tokens": 6, "limit": 4096}
    assert [chunk["name"] for chunk in answer["chunks"]] == ["retry.py"]
    assert [chunk["name"] for chunk in answer["loaded"]] == ["retry.py"]
    assert answer["skipped"] == []


def test_thoughts_are_no_part_of_the_answer(ask):
    done = ask("--no-files", "--ask", "think")
    assert done.stdout.startswith("It is set in")
    assert "They ask me" not in done.stdout + done.stderr
    assert "15 generated (8 thinking)" in done.stderr


def test_thoughts_are_a_field_of_their_own_in_json(ask):
    answer = json.loads(ask("--no-files", "--ask", "think", "--json").stdout)
    assert answer["reasoning"] == "They ask me to think.\nSo I do."
    assert "They ask me" not in answer["answer"]
    assert answer["usage"]["reasoning_tokens"] == 8


@pytest.mark.parametrize("budget", ["-1", "nan", "inf", "soon"])
def test_a_budget_must_be_an_amount(ask, fake, budget):
    done = ask("--no-files", f"--latency-budget={budget}", "--ask", "hm?")
    assert done.returncode == 2
    assert "--latency-budget" in done.stderr
    assert fake.received("initialize") == []


def test_a_slash_command_can_be_asked(ask, fake):
    done = ask("retry.py", "--ask", "/context")
    assert done.returncode == 0
    assert "retry.py  6" in done.stdout
    assert fake.received("ctx/chat") == []


def test_a_slash_command_in_json_has_markdown_and_data(ask):
    answer = json.loads(ask("retry.py", "--ask", "/context", "--json").stdout)
    assert answer == {"markdown": "| file | tokens |\n|---|---|\n| retry.py | 6 |\n", "data": None}


def test_without_files_the_workspace_is_discovered(ask, fake):
    answer = json.loads(ask("--ask", "hm?", "--json").stdout)
    assert [chunk["name"] for chunk in answer["loaded"]] == ["retry.py", "store.py"]
    (command,) = fake.received("workspace/executeCommand")
    assert command["arguments"] == [{"paths": [], "discover": True}]


def test_no_files_loads_nothing(ask, fake):
    assert ask("--no-files", "--ask", "hm?").returncode == 0
    assert fake.received("workspace/executeCommand") == []


def test_named_files_go_by_their_absolute_path(ask, fake, workspace):
    ask("retry.py", "--ask", "hm?")
    (command,) = fake.received("workspace/executeCommand")
    assert command["arguments"] == [{"paths": [str(workspace / "retry.py")], "discover": False}]


def test_a_file_that_could_not_be_loaded_is_named(ask):
    done = ask("retry.py", "image.bin", "--ask", "hm?")
    assert done.returncode == 0
    assert "not loaded: image.bin (not text)" in done.stderr


def test_fails_when_no_named_file_could_be_loaded(ask, fake):
    done = ask("image.bin", "--ask", "hm?", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "nothing_loaded"
    assert fake.received("ctx/chat") == []


def test_an_engine_error_is_one_line_and_exit_code_1(ask):
    done = ask("--no-files", "--ask", "fail")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "ctx-lsp: the context is full: 5000 of 4096 tokens"


def test_an_engine_error_in_json_keeps_its_code_and_data(ask):
    done = ask("--no-files", "--ask", "fail", "--json")
    error = {"code": "context_full", "message": "the context is full: 5000 of 4096 tokens", "data": {"needed": 5000}}
    assert (done.returncode, json.loads(done.stdout)) == (1, {"error": error})


def test_a_server_that_dies_is_reported_with_its_last_words(ask):
    done = ask("--no-files", "--ask", "die")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ctx-lsp: the language server has ended: RuntimeError: out of luck"


def test_a_server_that_speaks_no_json_rpc_is_reported(ask):
    done = ask("--no-files", "--ask", "garbage", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (1, "server_gone")


def test_a_server_that_cannot_start_is_reported(home, workspace):
    done = run_piped(["chat", "--server", "/no/such/server", "--ask", "hm?"], home, cwd=workspace)
    assert done.returncode == 1
    assert "cannot start the language server" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_is_ended_politely(ask, fake):
    ask("--no-files", "--ask", "hm?")
    assert fake.ended_politely


def test_options_reach_the_server(ask, fake, workspace):
    ask(
        "--no-files", "--model", "tiny", "--device", "cpu", "--max-context", "512", "--threads", "2",
        "--temperature", "0.5", "--max-tokens", "7", "--seed", "3", "--fidelity", "instant", "--order", "fixed",
        "--latency-budget", "50", "--ask", "hm?",
    )  # fmt: skip
    (initialize,) = fake.received("initialize")
    assert initialize["initializationOptions"] == {
        "model": "tiny",
        "device": "cpu",
        "maxContext": 512,
        "threads": 2,
        "documents": "manual",
        "order": "fixed",
        "fidelity": "instant",
        "latencyBudgetMs": 50.0,
    }
    assert initialize["workspaceFolders"] == [{"uri": workspace.as_uri(), "name": "workspace"}]
    (chat,) = fake.received("ctx/chat")
    chosen = {name: value for name, value in chat["sampling"].items() if value is not None}
    assert chosen == {"temperature": 0.5, "maxTokens": 7, "seed": 3}
    assert chat["fidelity"] is None, "the server knows"


def test_the_question_can_be_piped_in(ask, fake):
    assert ask("--no-files", stdin="what is piped?\n").returncode == 0
    assert fake.received("ctx/chat")[0]["text"] == "what is piped?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py", "--ask", "hm?"], "no such file or folder: missing.py"),
        (["--workspace", "nowhere", "--ask", "hm?"], "no such folder: nowhere"),
        (["--ask", " "], "the question is empty"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(ask, fake, arguments, message):
    done = ask(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"ctx-lsp: {message}\n")
    assert fake.received("initialize") == []


def test_sigint_cancels_the_answer_and_ends_the_server(home, workspace, fake):
    process = subprocess.Popen(
        [sys.executable, "-m", "ctx_lsp", "chat", "--server", fake.command, "--no-files", "--ask", "slow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=workspace,
        env=environment(home),
    )
    assert process.stdout is not None
    assert process.stdout.read(5) == b"word0"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert fake.cancelled("ctx/chat") == 1
    assert fake.ended_politely


def test_a_reader_that_leaves_cancels_the_answer(home, workspace, fake):
    process = subprocess.Popen(
        [sys.executable, "-m", "ctx_lsp", "chat", "--server", fake.command, "--no-files", "--ask", "slow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=workspace,
        env=environment(home),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == b"word0"
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 1
    assert b"Traceback" not in process.stderr.read()
    assert fake.cancelled("ctx/chat") == 1
