"""Start `ctx-engine`, real or fake, as a process of its own and reach it through its runtime file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from engine.serve import runtime_file
from engine.serve.runtime_file import RuntimeInfo
from tests.serve.serving import PATIENCE, until

FAKE = "tests.serve.fake_process"
REAL = "engine.serve"
ROOT = Path(__file__).parents[2]


@dataclass
class Process:
    """A started process; `log` holds what it wrote, its standard output first."""

    popen: subprocess.Popen[bytes]
    folder: Path
    log: Path

    def info(self) -> RuntimeInfo:
        """What its runtime file says, once it is there."""
        found: list[RuntimeInfo] = []

        def look() -> bool:
            assert self.popen.poll() is None, self.log.read_text()
            infos = (runtime_file.read(path) for path in self.folder.glob("*.json"))
            found.extend(info for info in infos if info is not None and info.pid == self.popen.pid)
            return bool(found)

        until(look)
        return found[0]

    def client(self) -> httpx.Client:
        info = self.info()
        headers = {"Authorization": f"Bearer {info.token}"}
        return httpx.Client(base_url=info.url, headers=headers, timeout=PATIENCE, trust_env=False)

    def wait(self) -> int:
        return self.popen.wait(PATIENCE)

    def until_status(self, status: str) -> dict[str, Any]:
        """/health, once it has this status."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.update(client.get("/health").json())
            return bool(seen["status"] == status)

        with self.client() as client:
            until(reached)
        return seen


@contextmanager
def started(folder: Path, *arguments: str, module: str = FAKE) -> Iterator[Process]:
    """`python -m module arguments…` with its runtime files in `folder`; killed at the end if it still runs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}-{len(list(folder.parent.iterdir()))}.log"
    environment = dict(os.environ) | {runtime_file.FOLDER_VARIABLE: str(folder), "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        command = [sys.executable, "-m", module, *arguments]
        popen = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=ROOT)
    try:
        yield Process(popen, folder, log)
    finally:
        popen.kill()
        popen.wait()
