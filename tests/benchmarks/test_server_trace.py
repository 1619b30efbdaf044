"""The server trace's actions, streams and table; and a run of it against a stand-in for llama.cpp's server."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import server_trace
from benchmarks.corpus import SourceFile, cut
from benchmarks.server_actions import APPEND, EDIT, FRONT, OFF, ON, OPEN, UP, WARM, actions, of_round
from benchmarks.server_processes import LlamaServer, llama_server
from benchmarks.server_report import MOST, Report, Sample, rows
from benchmarks.server_sides import EngineSide, messages
from benchmarks.server_stream import Reply, read
from tests.benchmarks.files import FILES
from tests.tiny_models import tiny_model

NAMES = [OPEN, WARM, EDIT, OFF, ON, UP, FRONT, APPEND]


class Shelf:
    """Files as ctx-engine keeps them where their order is fixed."""

    def __init__(self) -> None:
        self.files: list[SourceFile] = []
        self.off: set[str] = set()

    def put(self, file: SourceFile) -> None:
        names = [kept.name for kept in self.files]
        if file.name in names:
            self.files[names.index(file.name)] = file
        else:
            self.files.append(file)

    def switch_off(self, name: str) -> None:
        self.off.add(name)

    def switch_on(self, name: str) -> None:
        self.off.remove(name)

    def move(self, name: str, position: int) -> None:
        (moved,) = [file for file in self.files if file.name == name]
        self.files.remove(moved)
        self.files.insert(position, moved)


def test_what_is_kept_is_what_others_are_sent() -> None:
    shelf, texts = Shelf(), set()
    for action in actions(FILES):
        action.change(shelf)
        assert action.files == tuple(file for file in shelf.files if file.name not in shelf.off)
        texts.add("".join(file.text for file in action.files))
    # nothing but the question is new where it is asked again, and what was toggled is as before
    assert len(texts) == len(NAMES) - 2
    assert [action.name for action in actions(FILES)] == NAMES


def test_no_round_has_a_file_of_another() -> None:
    rounds = [of_round(FILES, number) for number in range(3)]
    assert len({file.text for files in rounds for file in files}) == 3 * len(FILES)
    assert [file.name for file in rounds[0]] == [file.name for file in FILES]


def test_a_file_is_cut_behind_a_line() -> None:
    file = SourceFile("a.py", "one\ntwo\nthree\n")
    assert cut(file, 9).text == "one\ntwo\n"
    assert cut(file, 100) == file


def test_a_prompt_is_laid_out_as_the_engine_does() -> None:
    system, user = messages(FILES[:2], "Why?")
    assert (system["role"], user) == ("system", {"role": "user", "content": "Why?"})
    places = [system["content"].index(f"File: {file.name}\n```python\n{file.text}") for file in FILES[:2]]
    assert places == sorted(places)


# -- streams ---------------------------------------------------------------------------------------------------------


def lines(*events: dict[str, Any]) -> list[str]:
    return [*(line for event in events for line in (f"data: {json.dumps(event)}", "")), "data: [DONE]", ""]


def piece(**delta: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def test_the_first_text_counts_and_not_the_role() -> None:
    times = iter((1.5, 9.0))
    usage = {"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 15}}
    found = lines(piece(role="assistant", content=None), piece(content=""), piece(content="a"), piece(content="b"))
    chunks = [{"fidelity": label} for label in ("exact", "near", "exact")]
    told = lines({"choices": [], "usage": usage, "ctx": {"chunks": chunks}})
    reply = read([": hello", *found[:-2], *told], lambda: next(times))
    assert reply == Reply(1.5, "ab", 20, 15, {"exact": 2, "near": 1})


def test_a_server_may_tell_nothing_and_say_nothing() -> None:
    assert read(lines(piece(role="assistant"), piece()), lambda: 2.0) == Reply(2.0, "")


def test_a_broken_answer_is_no_answer() -> None:
    with pytest.raises(ValueError, match=r"broke off.*no room"):
        read(lines(piece(content="a"), {"error": {"message": "no room"}}), lambda: 1.0)


# -- the report ------------------------------------------------------------------------------------------------------


def sample(side: str, number: int, seconds: float, step: str = EDIT, **told: Any) -> Sample:
    return Sample(number, step, side, 0.002, Reply(seconds, "a", **told))


def report(*samples: Sample) -> Report:
    return Report("title", {}, {"cores": 2}, {}, tuple(rows(samples, EngineSide.name)), EngineSide.name)


def test_ratios_are_taken_within_a_round() -> None:
    ours, theirs = (1.0, 4.0, 2.0), (10.0, 20.0, 30.0)
    samples = [sample(EngineSide.name, number, seconds) for number, seconds in enumerate(ours)]
    samples += [sample("other", number, seconds) for number, seconds in enumerate(theirs)]
    own, other = rows(samples, EngineSide.name)
    assert (own.first_token, own.ours, own.samples) == (2.0, 1.0, ours)
    assert (other.first_token, other.ours) == (20.0, 0.1)


def test_goals_are_held_against_the_quickest_server() -> None:
    def both(step: str, quick: float, slow: float) -> list[Sample]:
        return [sample(*one, step=step) for one in ((EngineSide.name, 0, 1.0), ("quick", 0, quick), ("slow", 0, slow))]

    samples = [*both(EDIT, 4.9, 50.0), *both(OFF, 5.1, 50.0), *both(APPEND, 1.0, 9.0), *both(WARM, 1.0, 1.0)]
    found = list(report(*samples).verdicts())
    assert [verdict.met for verdict in found] == [False, True, True]
    assert all("quick" in verdict.what for verdict in found)
    assert {EDIT, OFF, ON, UP, FRONT, APPEND} == set(MOST)


def test_the_table_says_what_a_server_told() -> None:
    told: dict[str, Any] = {"prompt": 1200, "reused": 1100, "fidelity": {"exact": 5, "near": 1}}
    found = report(sample(EngineSide.name, 0, 0.1, **told), sample("other", 0, 0.8))
    heading, own, other = str(found).splitlines()[3:6]
    assert own.split() == [*EDIT.split(), "ctx-lsp", "100", "1,200", "1,100", "2", "5", "exact,", "1", "near"]
    assert other.split() == ["other", "800", "8.00"]
    assert heading.startswith("action")
    assert found.as_json()["goals"][0]["met"]


def test_commands_say_the_same_to_both_servers() -> None:
    for package in ("xllamacpp", "llama_cpp"):
        command = LlamaServer("a", Path("python"), package, 64).command(Path("m.gguf"), 3, 4096, 99)
        words = dict(pairwise(word.replace("n_", "").replace("ctx", "context") for word in command))
        assert [words[f"--{name}"] for name in ("model", "port", "threads", "context")] == ["m.gguf", "99", "3", "4096"]


# -- a run -----------------------------------------------------------------------------------------------------------

SERVER = '''
"""In llama-server's place: it knows how much of a prompt it has seen in the one before."""
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    seen = ""
    def log_message(self, *_): pass
    def do_GET(self): self.reply(b"{}")
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = "".join(message["content"] for message in body["messages"])
        cached, Handler.seen = len(os.path.commonprefix([Handler.seen, prompt])), prompt
        usage = {"prompt_tokens": len(prompt), "prompt_tokens_details": {"cached_tokens": cached}}
        events = [{"choices": [{"delta": {"content": "Hm"}}]}, {"choices": [], "usage": usage}]
        self.reply("".join(f"data: {json.dumps(event)}\\n\\n" for event in events).encode())
    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An "interpreter" that runs a server, whatever module it is to run; and any file passes for a GGUF."""
    (tmp_path / "server.py").write_text(SERVER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "server.py"} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(server_trace, "gguf_file", Path)
    return python


def test_a_round_over_both_servers(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = tmp_path / "found.json", str(tiny_model("qwen2"))
    options = ("--model", model, "--llama-cpp", str(stand_in), "--packages", "xllamacpp", "--threads", "1")
    more = ("--characters", "600", "--repeat", "1", "--json", str(path), "--plot", str(tmp_path / "drawn.svg"))
    assert server_trace.main([*options, *more]) == 0
    found = {(row["step"], row["side"]): row for row in json.loads(path.read_text())["rows"]}
    assert list(found) == [(step, side) for step in NAMES for side in ("ctx-lsp", "llama-server")]
    own = {step: found[step, "ctx-lsp"] for step in NAMES}
    assert own[WARM]["fidelity"] == {"exact": 6}
    assert sum(own[OFF]["fidelity"].values()) == 5
    assert all(own[step]["reused"] > 0.9 * own[step]["prompt"] for step in (WARM, ON, APPEND))
    other = {step: found[step, "llama-server"]["reused"] / found[step, "llama-server"]["prompt"] for step in NAMES}
    assert other[EDIT] < 0.5 < other[APPEND]
    assert "GOAL" in capsys.readouterr().out


def test_what_cannot_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert server_trace.main(["--model", str(tmp_path)]) == 2
    assert "is no GGUF" in capsys.readouterr().err
    for python, problem in (
        (tmp_path / "no-python", "no-python can't be started"),
        (Path(shutil.which("false") or "false"), "llama-server ended with status 1"),
    ):
        server = LlamaServer("llama-server", python, "xllamacpp")
        with (
            pytest.raises(ValueError, match=problem),
            llama_server(server, tmp_path / "m.gguf", 1, 512, tmp_path / "log"),
        ):
            pass
