"""Servers as processes that a benchmark starts and stops: ctx-engine, and llama.cpp's in an interpreter that has it.

Knows their command lines and when they are ready; asks them nothing else.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from engine.serve import runtime_file

_START_SECONDS = 300.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 1800.0


@dataclass(frozen=True)
class LlamaServer:
    """One way to run llama.cpp's server.

    Attributes:
        package: `xllamacpp`, whose server is llama.cpp's own, or `llama_cpp`, which has one written in Python.
        cache_reuse: shortest run of tokens that is reused at another place (its own server only); 0: none is.
    """

    name: str
    python: Path
    package: str
    cache_reuse: int = 0

    def command(self, gguf: Path, threads: int, context: int, port: int) -> list[str]:
        """What starts it, listening on `port` of loopback."""
        common = [str(self.python), "-m"]
        if self.package == "llama_cpp":
            common += ["llama_cpp.server", "--cache", "true", "--verbose", "false"]
            common += ["--n_threads", str(threads), "--n_threads_batch", str(threads), "--n_ctx", str(context)]
        else:
            common += ["benchmarks.llama_server", "--cache-reuse", str(self.cache_reuse)]
            common += ["--threads", str(threads), "--context", str(context)]
        return [*common, "--model", str(gguf), "--port", str(port)]


@contextmanager
def llama_server(server: LlamaServer, gguf: Path, threads: int, context: int, log: Path) -> Iterator[httpx.Client]:
    """The server, ready to be asked; ended with the block.

    Raises:
        ValueError: it can't be started.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    http = _client(f"http://127.0.0.1:{port}")
    with _running(server.command(gguf, threads, context, port), log) as process, http:
        _await(server.name, process, log, lambda: _lists_models(http))
        yield http


def _lists_models(http: httpx.Client) -> bool:
    return http.get("/v1/models").status_code == 200


@contextmanager
def ctx_engine(options: Sequence[str], folder: Path) -> Iterator[httpx.Client]:
    """A ctx-engine of its own with these options, its model loaded; ended with the block.

    Raises:
        ValueError: it can't be started, or can't load the model.
    """
    place, log = folder / "engine.json", folder / "engine.log"
    command = [sys.executable, "-m", "engine.serve", *options, "--runtime-file", str(place)]
    with _running(command, log) as process:
        _await("ctx-engine", process, log, lambda: runtime_file.read(place) is not None)
        info = runtime_file.read(place)
        assert info is not None
        with _client(info.url, info.token) as http:
            _await("ctx-engine", process, log, lambda: _is_loaded(http))
            yield http


def _is_loaded(http: httpx.Client) -> bool:
    health = http.get("/health").json()
    if health["status"] == "failed":
        raise ValueError(f"ctx-engine: {health['message']}")
    return bool(health["status"] == "ready")


def _client(url: str, token: str = "") -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url, headers=headers, timeout=_ANSWER_SECONDS, trust_env=False)


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        except OSError as error:
            raise ValueError(f"{command[0]} can't be started: {error}") from error
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    """Until it is ready, or ValueError with the end of its log."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if ready():
                return
        except httpx.TransportError:
            pass
        time.sleep(_POLL_SECONDS)
    status = process.poll()
    what = f"was not ready after {_START_SECONDS:.0f} s" if status is None else f"ended with status {status}"
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    raise ValueError(f"{name} {what}: {last[:300]}")
