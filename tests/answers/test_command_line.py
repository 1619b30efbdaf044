"""The way a user asks: `ctx-lsp chat FILES --ask QUESTION --json`, with a language server and an engine behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import DEFAULT_MODEL
from tests.answers.exam import MAX_TOKENS
from tests.answers.questions import AUTH
from tests.answers.sources import read_files

SECONDS = 3600
pytestmark = [pytest.mark.answers, pytest.mark.timeout(SECONDS)]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ctx_lsp(tmp_path: Path) -> Iterator[Run]:
    """Runs the command in `tmp_path`, with an engine of its own that ends with the test."""
    environment = {**os.environ, "CTX_LSP_RUNTIME_DIR": str(tmp_path / "runtime")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ctx_lsp", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    yield run
    run("engine", "stop")


@pytest.fixture
def files(tmp_path: Path, wheels: Path) -> dict[str, str]:
    """The files' texts by name; they lie under `tmp_path`."""
    texts = read_files(AUTH.wheel, AUTH.files, wheels)
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return texts


def test_one_question_after_another(ctx_lsp: Run, files: dict[str, str]) -> None:
    """Each command is a server of its own; the engine outlives them, so only the first needs the files' KV computed."""
    reused = []
    for question in AUTH.questions[:3]:
        done = ctx_lsp("chat", *files, "--ask", question.text, "--json", "--max-tokens", str(MAX_TOKENS))
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert question.fact(files).met_by(told["answer"]), told["answer"]
        check_figures(told, files)
        reused.append(told["usage"]["reused_tokens"])
    file_tokens = sum(chunk["tokens"] for chunk in told["chunks"])
    assert min(reused[1:]) >= file_tokens


def check_figures(told: dict[str, Any], files: dict[str, str]) -> None:
    """The figures beside an answer say what was done for it, and add up."""
    usage, timing = told["usage"], told["timing"]
    assert told["model"] == DEFAULT_MODEL
    assert told["stop_reason"] == "stop"
    assert told["fidelity"] == "exact"
    assert [chunk["name"] for chunk in told["chunks"]] == list(files)
    assert usage["prompt_tokens"] == usage["reused_tokens"] + usage["prefilled_tokens"]
    assert usage["prompt_tokens"] > sum(chunk["tokens"] for chunk in told["chunks"])
    assert 0 < usage["completion_tokens"] <= MAX_TOKENS
    assert 0 < timing["time_to_first_token"] <= timing["total"]
