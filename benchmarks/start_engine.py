"""An engine process of a benchmark's own: brought up, timed until it is ready, filled with files, ended.

Speaks HTTP to it, as any client does; knows nothing of reports.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.corpus import SourceFile
from engine.serve import runtime_file
from engine.serve.runtime_file import RuntimeInfo
from engine.serve.stages import Stage

LOOK_SECONDS = 0.02
END_SECONDS = 30.0
ANSWER_TOKENS = 16


class EngineRefusedError(Exception):
    """The process ended, failed to load its model, or could not do what it was asked for."""


@dataclass(frozen=True)
class StartedEngine:
    """One that is ready.

    Attributes:
        seconds: from before the process was started to the first time that it said so.
        stages: what it says its start was taken up with.
    """

    info: RuntimeInfo
    seconds: float
    stages: tuple[Stage, ...]

    def answer_over(self, files: Sequence[SourceFile], tokens: int) -> int:
        """One question over as many of the files as make up `tokens`; returns how many tokens they have.

        Raises:
            EngineRefusedError: the model takes no prompt of so many.
        """
        headers = {"Authorization": f"Bearer {self.info.token}"}
        with httpx.Client(base_url=self.info.url, headers=headers, timeout=None, trust_env=False) as client:
            active = int(_sent(client, "PUT", "/v1/contexts/start", {})["active_tokens"])
            for file in files:
                if active >= tokens:
                    break
                chunk = {"text": file.text, "source": file.name}
                active += int(_sent(client, "POST", "/v1/contexts/start/chunks", chunk)["tokens"])
            question = {"role": "user", "content": "What does this code do?"}
            body = {"messages": [question], "context": "start", "max_tokens": ANSWER_TOKENS}
            _sent(client, "POST", "/v1/chat/completions", body)
        return active


@contextmanager
def started_engine(options: Sequence[str], folder: Path) -> Iterator[StartedEngine]:
    """One engine with these options of `ctx-engine`, until the end of the block; its files are in `folder`.

    Raises:
        EngineRefusedError: there is none; the message says why.
    """
    path, log = folder / "engine.json", folder / "engine.log"
    command = [sys.executable, "-m", "engine.serve", *options, "--runtime-file", str(path), "--log-file", str(log)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        info, health = _ready(process, path)
        seconds = time.perf_counter() - began
        yield StartedEngine(info, seconds, tuple(Stage(**stage) for stage in health["stages"]))
    finally:
        process.terminate()
        process.wait(END_SECONDS)


def _ready(process: subprocess.Popen[bytes], path: Path) -> tuple[RuntimeInfo, dict[str, Any]]:
    while process.poll() is None:
        if (info := runtime_file.read(path)) is not None:
            health = runtime_file.health(info, timeout=END_SECONDS)
            if health["status"] == "ready":
                return info, health
            if health["status"] == "failed":
                raise EngineRefusedError(health["message"])
        time.sleep(LOOK_SECONDS)
    raise EngineRefusedError(f"the engine ended with exit code {process.returncode}")


def _sent(client: httpx.Client, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.request(method, path, json=body)
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise EngineRefusedError(answer["error"]["message"])
    return answer
