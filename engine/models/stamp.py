"""Trust in a file that was hashed before: a small sidecar with its size, mtime and SHA-256.

Hashing a gigabyte at every start would cost seconds; a file whose size and mtime are unchanged is not hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

READ_BYTES = 1 << 20


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Hex digest of the file; `on_bytes` gets the running count of bytes read."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            done += len(block)
            on_bytes(done)
    return digest.hexdigest()


def stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".verified.json")


def write_stamp(path: Path, sha256: str) -> None:
    """Records that `path`, as it is now, has this hash."""
    stat = path.stat()
    write_atomically(stamp_path(path), {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256})


def is_verified(path: Path, size: int, sha256: str) -> bool:
    """Whether `path` is the wanted file. Hashes it (seconds per gigabyte) only when the stamp doesn't fit it."""
    try:
        stat = path.stat()
    except OSError:
        return False
    if stat.st_size != size:
        return False
    if _read(stamp_path(path)) == {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}:
        return True
    if sha256_of(path) != sha256:
        return False
    with suppress(OSError):  # a cache that can't be written serves as well, only each look hashes again
        write_stamp(path, sha256)
    return True


def write_atomically(path: Path, value: dict[str, object]) -> None:
    """JSON at `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
