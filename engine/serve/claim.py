"""One engine per runtime file: a file lock held for the life of the process, so that starting twice can't race.

Knows runtime files, not what is served behind them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from engine.serve import runtime_file
from engine.serve.runtime_file import RuntimeInfo

logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.1


class ClaimError(Exception):
    """Another process holds the runtime file, yet neither answers nor ends."""


@dataclass(frozen=True)
class Claim:
    """The right to write one runtime file; given up by `release` or by the end of the process, however it comes."""

    path: Path
    lock: FileLock

    def release(self) -> None:
        self.lock.release()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(path: Path, patience: float = 60.0) -> Claim | RuntimeInfo:
    """Take the runtime file, or find the engine that has it.

    An engine whose model failed to load is asked to end, and replaced. One that is starting or ending is waited for.

    Args:
        path: the runtime file; the lock lies beside it.
        patience: seconds to wait for an engine that holds the lock but can't be reached.

    Raises:
        ClaimError: patience ran out.
        OSError: the folder can't be used.
    """
    runtime_file.prepare_folder(path.parent)
    lock = FileLock(path.with_name(path.name + ".lock"), mode=0o600, thread_local=False)
    deadline = time.monotonic() + patience
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            holder = _usable_engine(path)
            if holder is not None:
                return holder
        else:
            return _unless_served(Claim(path, lock))
        if time.monotonic() > deadline:
            raise ClaimError(f"another process holds {lock.lock_file} but no engine answers; end it, then start again")
        time.sleep(_POLL_SECONDS)


def _unless_served(taken: Claim) -> Claim | RuntimeInfo:
    """Somebody may have cleaned away the lock file under a living engine: then that engine has the better right."""
    info = _usable_engine(taken.path)
    if info is None:
        return taken
    taken.release()
    return info


def _usable_engine(path: Path) -> RuntimeInfo | None:
    """The engine behind the file unless it is gone or failed; a failed one is asked to make room."""
    info = runtime_file.read(path)
    if info is None or not runtime_file.pid_alive(info.pid):
        return None
    try:
        status = runtime_file.health(info)["status"]
        if status != "failed":
            return info
        logger.info("the engine with process id %d failed to load its model; taking its place", info.pid)
        runtime_file.request_shutdown(info)
    except TimeoutError:
        return info  # something listens, so it lives; it is only busy
    except OSError as error:
        logger.debug("no answer from the engine with process id %d: %s", info.pid, error)
    return None
