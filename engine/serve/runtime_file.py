"""Where a running engine says how it can be reached: paths, reading, writing, and whether it still lives.

Shared by the engine's process and its clients: standard library and platformdirs only, never torch or a web framework.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from engine.config import EngineConfig

FOLDER_VARIABLE = "CTX_LSP_RUNTIME_DIR"
_TOUCH_SECONDS = 3600
_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    "url": str,
    "token": str,
    "pid": int,
    "model": str,
    "version": str,
    "started": (int, float),
}


@dataclass(frozen=True)
class RuntimeInfo:
    """What a runtime file says.

    Attributes:
        url: e.g. ``http://127.0.0.1:43817``, without a trailing slash.
        token: the bearer token every request needs.
        pid: of the engine's process.
        model: as it was asked for.
        version: of this package when the engine started.
        started: seconds since the epoch.
    """

    url: str
    token: str
    pid: int
    model: str
    version: str
    started: float


class NotAnEngineError(OSError):
    """Something answers at the engine's address, but not as the engine of this runtime file would."""


def runtime_dir() -> Path:
    """The folder of runtime files (not created): `CTX_LSP_RUNTIME_DIR`, else ctx-lsp in the user's runtime folder."""
    override = os.environ.get(FOLDER_VARIABLE)
    if override:
        return Path(override)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about falling back where XDG_RUNTIME_DIR is unset, which is fine
        return platformdirs.user_runtime_path("ctx-lsp", appauthor=False)


def runtime_path(config: EngineConfig) -> Path:
    """Where the engine of this configuration writes its file unless it is told another place."""
    return runtime_dir() / f"engine-{config_key(config)}.json"


def config_key(config: EngineConfig) -> str:
    """A readable slug of the model and a short hash of every field: equal configurations share one engine."""
    fields = asdict(replace(config, model=absolute_model(config.model)))
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.model).name).strip("-.")[:40]
    return f"{slug or 'model'}-{digest[:10]}"


def absolute_model(model: str) -> str:
    """A model given as an existing path becomes absolute, so that it means the same from every working folder."""
    path = Path(model).expanduser()
    is_path = path.suffix == ".gguf" or len(path.parts) > 1 or model.startswith((".", "~"))
    return str(path.resolve()) if is_path and path.exists() else model


def read(path: Path) -> RuntimeInfo | None:
    """The file's content; None if there is none, it is malformed, or it is not this user's."""
    try:
        with path.open(encoding="utf-8") as file:
            if not _is_mine(os.fstat(file.fileno())):
                return None
            fields = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(fields, dict):
        return None
    values: dict[str, Any] = {name: fields.get(name) for name in _FIELD_TYPES}
    if not all(isinstance(values[name], types) for name, types in _FIELD_TYPES.items()):
        return None
    return RuntimeInfo(**values)


def write(path: Path, info: RuntimeInfo) -> None:
    """Put the file in place atomically, readable by this user alone. Raises OSError."""
    prepare_folder(path.parent)
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)  # created with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(info), file)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def keep(path: Path, info: RuntimeInfo) -> None:
    """Keep a running engine's file in place: cleaners of runtime folders take what has not been touched for hours."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        write(path, info)
        return
    if age > _TOUCH_SECONDS:
        os.utime(path)


def remove(path: Path, token: str) -> None:
    """Delete the file if it is still the one written with this token."""
    info = read(path)
    if info is not None and info.token == token:
        path.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Create the folder with mode 0700; refuse the runtime folder if others could put their own files into it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32" or folder != runtime_dir():
        return
    status = folder.stat()
    if not _is_mine(status) or stat.S_IMODE(status.st_mode) & 0o022:
        raise PermissionError(f"{folder} must be yours alone: remove it, or set {FOLDER_VARIABLE} to another folder")


def health(info: RuntimeInfo, timeout: float = 5.0) -> dict[str, Any]:
    """What the engine's /health says.

    Raises OSError: ConnectionRefusedError (nobody listens), TimeoutError (busy), NotAnEngineError (somebody else).
    """
    answer = _request(info, "GET", "/health", timeout)
    if not isinstance(answer, dict) or "status" not in answer:
        raise NotAnEngineError(f"what listens at {info.url} is not the engine that wrote the file")
    return answer


def request_shutdown(info: RuntimeInfo, timeout: float = 5.0) -> None:
    """Ask the engine to end. Raises OSError as `health` does."""
    _request(info, "POST", "/v1/shutdown", timeout)


def is_stale(info: RuntimeInfo, timeout: float = 5.0) -> bool:
    """Whether the engine of this file is gone: its process is dead, or its address refuses. Too busy is not gone."""
    if not pid_alive(info.pid):
        return True
    try:
        health(info, timeout)
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def find_live(path: Path, timeout: float = 5.0) -> RuntimeInfo | None:
    """The engine that wrote this file, if it still lives."""
    info = read(path)
    return None if info is None or is_stale(info, timeout) else info


def pid_alive(pid: int) -> bool:
    """Whether a process has this id. On Windows always True: there, only the address can tell."""
    if sys.platform == "win32":
        return True  # os.kill(pid, 0) would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _request(info: RuntimeInfo, method: str, path: str, timeout: float) -> Any:
    """One JSON exchange, straight to the address: proxies from the environment must not see loopback traffic."""
    address = urlsplit(info.url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {info.token}"})
        response = connection.getresponse()
        body = response.read()
    except HTTPException as error:
        raise NotAnEngineError(f"{info.url} does not speak HTTP") from error
    finally:
        connection.close()
    if response.status != 200:
        raise NotAnEngineError(f"{method} {path} was answered with status {response.status}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise NotAnEngineError(f"{method} {path} was not answered with JSON") from error


def _is_mine(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.getuid()
