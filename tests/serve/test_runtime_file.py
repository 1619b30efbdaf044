"""Runtime files: where they lie, who may read them, when they are stale, and who owns them."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from engine.config import EngineConfig
from engine.errors import EngineError
from engine.serve import runtime_file
from engine.serve.claim import Claim, ClaimError, claim
from engine.serve.runtime_file import NotAnEngineError, RuntimeInfo
from tests.serve.fake_engine import FakeEngine
from tests.serve.serving import TOKEN, Served, serving, until


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run" / "ctx-lsp"
    monkeypatch.setenv(runtime_file.FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture
def path(folder: Path) -> Path:
    return runtime_file.runtime_path(EngineConfig())


def info_of(served: Served, **changes: Any) -> RuntimeInfo:
    return replace(RuntimeInfo(served.url, TOKEN, os.getpid(), "fake-model", "0", 1.0), **changes)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


INFO = RuntimeInfo("http://127.0.0.1:1", "secret", 12345, "a/model", "0.1.0", 1700000000.5)


def test_it_is_light() -> None:
    heavy = ("torch", "transformers", "fastapi", "uvicorn", "pydantic")
    code = f"import engine.serve.runtime_file, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_written_and_read(path: Path, folder: Path) -> None:
    runtime_file.write(path, INFO)
    assert runtime_file.read(path) == INFO
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    runtime_file.write(path, replace(INFO, pid=1))
    assert runtime_file.read(path) == replace(INFO, pid=1)
    assert [file.name for file in folder.iterdir()] == [path.name]


def test_modes_hold_under_any_umask(path: Path, folder: Path) -> None:
    previous = os.umask(0)
    try:
        runtime_file.write(path, INFO)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_others_can_write_is_refused(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="yours alone"):
        runtime_file.write(path, INFO)
    assert list(folder.iterdir()) == []


def test_a_file_elsewhere_leaves_its_folder_as_it_is(tmp_path: Path, folder: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    runtime_file.write(shared / "engine.json", INFO)
    assert runtime_file.read(shared / "engine.json") == INFO
    assert stat.S_IMODE(shared.stat().st_mode) == 0o777


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", json.dumps({**INFO.__dict__, "pid": "1"}), json.dumps({"url": "x"}), "\udcff"]
)
def test_malformed_files_are_no_engines(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(content, errors="surrogateescape")
    assert runtime_file.read(path) is None
    assert runtime_file.find_live(path) is None


def test_fields_of_a_later_version_are_passed_over(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**INFO.__dict__, "color": "blue"}))
    assert runtime_file.read(path) == INFO


def test_removed_only_by_its_owner(path: Path) -> None:
    runtime_file.write(path, INFO)
    runtime_file.remove(path, "another token")
    assert path.exists()
    runtime_file.remove(path, INFO.token)
    assert not path.exists()
    runtime_file.remove(path, INFO.token)


def test_a_file_that_was_cleaned_away_comes_back(path: Path) -> None:
    runtime_file.keep(path, INFO)
    assert runtime_file.read(path) == INFO
    os.utime(path, (1.0, 1.0))
    runtime_file.keep(path, INFO)
    assert time.time() - path.stat().st_mtime < 3600
    runtime_file.write(path, replace(INFO, token="another engine's"))
    runtime_file.keep(path, INFO)
    assert runtime_file.read(path) == replace(INFO, token="another engine's")


# -- keys --------------------------------------------------------------------------------------------------------------


def test_every_field_of_the_configuration_counts() -> None:
    base = EngineConfig()
    others: dict[str, Any] = {
        "model": "another",
        "device": "cpu",
        "dtype": "float32",
        "kv_dtype": "fp8",
        "attention": "torch",
        "tensor_parallel_size": 2,
        "kv_cache_tokens": 5,
        "max_context": 6,
        "block_size": 7,
        "slice_tokens": 8,
        "max_batch": 9,
        "threads": 10,
        "latency_budget": 11.0,
        "refine": False,
        "speculation": False,
        "quantized_decode": False,
    }
    assert set(others) == {field.name for field in fields(EngineConfig)}
    keys = {runtime_file.config_key(replace(base, **{name: value})) for name, value in others.items()}
    keys.add(runtime_file.config_key(base))
    assert len(keys) == len(others) + 1
    assert runtime_file.config_key(EngineConfig()) == runtime_file.config_key(base)


@pytest.mark.parametrize(
    ("model", "slug"),
    [
        ("qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b"),
        ("Qwen/Qwen2.5 Coder", "Qwen2.5-Coder"),
        ("/", "model"),
        ("ü", "model"),
        ("x" * 300, "x" * 40),
    ],
)
def test_keys_are_readable_file_names(model: str, slug: str) -> None:
    key = runtime_file.config_key(EngineConfig(model=model))
    assert key.rpartition("-")[0] == slug
    assert len(key.rpartition("-")[2]) == 10


def test_a_model_folder_has_one_key_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    keys = set()
    for cwd, model in [("", "models/mine"), ("models", "./mine"), ("models/mine", "../mine")]:
        monkeypatch.chdir(tmp_path / cwd)
        keys.add(runtime_file.config_key(EngineConfig(model=model)))
    assert len(keys) == 1
    assert runtime_file.absolute_model("mine") == "mine"  # a bare name is the catalogue's, whatever lies around
    assert runtime_file.absolute_model("Qwen/Qwen2.5") == "Qwen/Qwen2.5"


def test_the_folder_without_an_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(runtime_file.FOLDER_VARIABLE, raising=False)
    assert runtime_file.runtime_dir().name == "ctx-lsp"


# -- staleness ---------------------------------------------------------------------------------------------------------


def test_a_living_engine_is_found(served: Served, path: Path) -> None:
    runtime_file.write(path, info_of(served))
    assert runtime_file.find_live(path) == info_of(served)
    assert runtime_file.health(info_of(served))["status"] == "ready"


def test_a_dead_process_is_stale(served: Served, path: Path) -> None:
    runtime_file.write(path, info_of(served, pid=dead_pid()))
    assert runtime_file.find_live(path) is None


def test_an_address_nobody_listens_at_is_stale() -> None:
    info = replace(INFO, pid=os.getpid(), url=free_url())
    assert runtime_file.is_stale(info)
    with pytest.raises(ConnectionRefusedError):
        runtime_file.health(info)


def test_somebody_elses_engine_is_stale(served: Served) -> None:
    info = info_of(served, token="of an engine that had this port before")
    assert runtime_file.is_stale(info)
    with pytest.raises(NotAnEngineError):
        runtime_file.health(info)


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """Something that answers every connection with `answer`, or never."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                if answer is not None:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize("answer", [b"SSH-2.0-nothing\r\n", OK + b"hi", OK + b"[]", OK + b"{}", b""])
def test_something_that_is_no_engine_is_stale(answer: bytes) -> None:
    with listening(answer) as url:
        info = replace(INFO, pid=os.getpid(), url=url)
        assert runtime_file.is_stale(info)
        with pytest.raises(NotAnEngineError):
            runtime_file.health(info)


def test_an_engine_that_is_too_busy_to_answer_is_not_stale() -> None:
    with listening(None) as url:
        info = replace(INFO, pid=os.getpid(), url=url)
        assert not runtime_file.is_stale(info, timeout=0.1)
        with pytest.raises(TimeoutError):
            runtime_file.health(info, timeout=0.1)


def test_proxies_do_not_see_the_token(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, free_url())
    assert not runtime_file.is_stale(info_of(served))


# -- claims ------------------------------------------------------------------------------------------------------------


def test_a_claim_of_a_free_place(path: Path) -> None:
    with claimed(path) as first:
        assert first.path == path
        with pytest.raises(ClaimError, match="no engine answers"):
            claim(path, patience=0.0)
    with claimed(path):
        pass


def claimed(path: Path) -> Claim:
    taken = claim(path)
    assert isinstance(taken, Claim)
    return taken


def test_a_claim_of_a_taken_place(served: Served, path: Path) -> None:
    with claimed(path):
        runtime_file.write(path, info_of(served))
        assert claim(path) == info_of(served)


def test_a_dead_engines_file_is_no_obstacle(served: Served, path: Path) -> None:
    runtime_file.write(path, info_of(served, pid=dead_pid()))
    with claimed(path):
        pass
    runtime_file.write(path, info_of(served, url=free_url()))
    with claimed(path):
        pass


def test_an_engine_whose_lock_file_was_cleaned_away_is_respected(served: Served, path: Path) -> None:
    with claimed(path) as first:
        runtime_file.write(path, info_of(served))
        os.unlink(first.lock.lock_file)
        assert claim(path) == info_of(served)


def test_a_claim_waits_for_an_engine_that_is_starting(served: Served, path: Path) -> None:
    results: list[Claim | RuntimeInfo] = []
    with claimed(path):
        waiting = threading.Thread(target=lambda: results.append(claim(path)))
        waiting.start()
        runtime_file.write(path, info_of(served))
        waiting.join(60)
    assert results == [info_of(served)]


def test_a_claim_waits_for_an_engine_that_is_ending(path: Path) -> None:
    results: list[Claim | RuntimeInfo] = []
    with claimed(path):
        waiting = threading.Thread(target=lambda: results.append(claim(path)))
        waiting.start()
    waiting.join(60)
    assert [result.path for result in results if isinstance(result, Claim)] == [path]


def test_a_failed_engine_makes_room(path: Path) -> None:
    def fail(_progress: object) -> FakeEngine:
        raise EngineError("no such model")

    first = claimed(path)
    with serving(FakeEngine(), fail, ready=False) as failed:
        runtime_file.write(path, info_of(failed))
        until(lambda: failed.client.get("/health").json()["status"] == "failed")

        def leave() -> None:
            failed.thread.join(60)
            first.release()

        leaving = threading.Thread(target=leave)
        leaving.start()
        with claimed(path):
            assert not failed.thread.is_alive()
        leaving.join()


def test_the_lock_is_the_users_alone(path: Path) -> None:
    with claimed(path) as taken:
        assert isinstance(taken.lock, FileLock)
        assert stat.S_IMODE(os.stat(taken.lock.lock_file).st_mode) == 0o600
