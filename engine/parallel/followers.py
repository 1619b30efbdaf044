"""Rank 0's side of tensor parallelism: starts the processes of the other ranks, talks to them, and watches them.

Knows what a step is as little as what a model is.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe, wait

import torch

from engine.config import EngineConfig
from engine.errors import EngineError
from engine.parallel.group import Group, meeting_place
from engine.parallel.messages import EagerStep, Failed, GraphStep, Here, LoadShard, Prepare, Start

logger = logging.getLogger(__name__)

_LOOK = 0.5
_LONGEST_STEP = 120.0
"""Seconds: how often lateness is looked for, and when a step counts as stuck."""


class Followers:
    """The processes of ranks 1 to size - 1. Whatever fails ends them all, and every later step fails with the reason.

    Attributes:
        group: as rank 0 sees it.

    Invariant: what a message makes the followers do together with rank 0, rank 0 does within the same `together`.
    """

    def __init__(self, config: EngineConfig, load: LoadShard, devices: list[torch.device]) -> None:
        """Start a process for each of `devices` but the first, which is this one's; they begin to load at once.

        Raises:
            EngineError: one of them ended before that.
        """
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._device = devices[0]
        self._failure: str | None = None
        self._failed = threading.Event()
        self._deadline: float | None = None
        self._closing = False
        store = meeting_place(len(devices))
        self._watcher = threading.Thread(target=self._watch, name="ctx-engine-followers", daemon=True)
        try:
            for rank, device in enumerate(devices[1:], 1):
                self._start(Start(config, load, store.port, rank, str(device)))
            for connection in self._connections:
                if not isinstance(found := _receive(connection), Here):
                    raise EngineError(self._reason(connection, found))
            self.group = Group(store, 0, len(devices), devices[0])
        except BaseException:
            self._kill()
            raise
        self._watcher.start()

    def _start(self, message: Start) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "engine.parallel.follower", str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C is for rank 0, which ends them
        )
        theirs.close()
        self._connections.append(ours)
        self._processes.append(process)
        ours.send(message)

    # -- working together ------------------------------------------------------------------------------------------

    def send(self, message: Prepare | GraphStep | EagerStep) -> None:
        """Tell all of them."""
        for connection in self._connections:
            connection.send(message)

    @contextmanager
    def together(self, *, limit: float | None = _LONGEST_STEP) -> Iterator[None]:
        """For what all ranks do at the same time; at the end the device is done with it.

        Args:
            limit: seconds after which they count as stuck.

        Raises:
            EngineError: a follower has ended, or is stuck. What was computed then is worth nothing.
        """
        self._check()
        self._deadline = None if limit is None else time.monotonic() + limit
        try:
            yield
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        except EngineError:
            self._fail("the engine's own process gave up")
            raise
        except Exception as error:
            # when a follower ends, what waits for it fails in its own words
            if not self._failed.wait(4 * _LOOK):
                self._fail(f"the engine's own process failed: {error}")
                raise
        finally:
            self._deadline = None
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise EngineError(f"{self._failure}; start the engine again")

    # -- watching --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Until they end, or are stuck; whoever waits for them is let go."""
        while not self._closing:
            spoken = wait(self._connections, _LOOK)
            if self._closing:
                return
            if spoken:
                connection = spoken[0]
                assert isinstance(connection, Connection)
                return self._fail(self._reason(connection, _receive(connection)))
            if self._deadline is not None and time.monotonic() > self._deadline:
                return self._fail("the processes that compute together no longer keep step")

    def _reason(self, connection: Connection, word: object) -> str:
        rank = self._connections.index(connection) + 1
        if isinstance(word, Failed):
            return f"the process of rank {rank} failed: {word.reason}"
        process = self._processes[rank - 1]
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)
        return f"the process of rank {rank} has ended (exit status {process.returncode})"

    def _fail(self, reason: str) -> None:
        if self._failure is None and not self._closing:
            logger.error("tensor parallelism: %s", reason)
            self._failure = reason
        self._kill()
        self._failed.set()
        self.group.abort()

    def _kill(self) -> None:
        """They hold nothing that isn't held elsewhere, so there is no gentler way to end them."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """End them. Idempotent."""
        self._closing = True
        self._kill()
        self._watcher.join()
        for connection, process in zip(self._connections, self._processes, strict=True):
            process.wait()
            connection.close()
        self.group.abort()


def _receive(connection: Connection) -> object:
    """What was said, or None if nothing will be said any more."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None
