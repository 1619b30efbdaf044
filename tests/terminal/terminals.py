"""Runs the real `ctx-lsp chat` for tests: in a pseudo-terminal with keys and screen output, or with plain pipes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

PATIENCE = 60.0  # an upper bound for a loaded machine, never waited for when things work
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>()][A-Z0-9]?")


def environment(home: Path, **more: str) -> dict[str, str]:
    """A home of its own, so that no test sees or writes anyone's history."""
    return {
        **os.environ,
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        **more,
    }


def run_piped(arguments: list[str], home: Path, *, stdin: str = "", cwd: Path | None = None, **more: str):
    """`ctx-lsp ARGUMENTS` without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "ctx_lsp", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        cwd=cwd,
        env=environment(home, **more),
    )


class PtyTerminal:
    """`ctx-lsp ARGUMENTS` in a pseudo-terminal of 100 × 40 cells."""

    def __init__(self, arguments: list[str], home: Path, cwd: Path, **more: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ctx_lsp", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment(home, **more),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._raw = ""
        self._seen = 0

    @property
    def text(self) -> str:
        """Everything that was written, without escape sequences."""
        return _ESCAPES.sub("", self._raw)

    @property
    def raw(self) -> str:
        """Everything that was written."""
        return self._raw

    def send(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, pattern: str) -> str:
        """Wait for output that matches, after what was expected before. Returns the match."""
        deadline = time.monotonic() + PATIENCE
        while not (match := re.compile(pattern, re.DOTALL).search(self.text, self._seen)):
            if not self._read(deadline):
                raise AssertionError(f"{pattern!r} never came. The terminal shows:\n{self.text[self._seen :]}")
        self._seen = match.end()
        return match[0]

    def wait(self) -> int:
        """The exit code, once everything is read."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self._process.wait(timeout=PATIENCE)

    def interrupt(self) -> None:
        """SIGINT, as from `kill -INT`."""
        self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)

    def _read(self, deadline: float) -> bool:
        """Read some output. False at the end of it, or when time is up."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._master, 1 << 16) if ready else b""
        except OSError:  # Linux says EIO when the other side is closed
            data = b""
        self._raw += data.decode(errors="replace")
        return bool(data)
