"""Where a workspace's lasting state lives, and how a file of it is written: private, and whole or not at all.

Blocking; call it on a thread. Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import platformdirs

from engine.errors import EngineError

FOLDER_VARIABLE = "CTX_LSP_STATE_DIR"


class StateFolderError(EngineError):
    """A file of the state folder can't be read or written; `data["path"]` is its path."""

    code = "state_unavailable"
    status = 500

    @classmethod
    def of(cls, path: Path, error: OSError) -> StateFolderError:
        return cls(f"{path} can't be used: {error.strerror or error}", path=str(path))


def state_folder() -> Path:
    """The folder of all state (not created): `CTX_LSP_STATE_DIR`, else ctx-lsp in the user's state folder."""
    override = os.environ.get(FOLDER_VARIABLE)
    return Path(override) if override else platformdirs.user_state_path("ctx-lsp", appauthor=False)


def workspace_folder(folders: Sequence[Path]) -> Path:
    """The folder of one workspace's state (not created): the same for the same folders in whatever order."""
    paths = sorted(str(folder) for folder in folders)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(paths[0]).name if paths else "no-folder").strip("-.")[:40]
    digest = hashlib.sha256(json.dumps(paths).encode()).hexdigest()
    return state_folder() / "workspaces" / f"{name or 'workspace'}-{digest[:16]}"


def write_private(path: Path, text: str) -> None:
    """Puts a file in place atomically, readable by this user alone, as are folders made for it. Raises OSError."""
    make_private(path.parent)
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)  # created with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def set_aside(path: Path) -> Path:
    """Renames a file that can't be read, so that it is neither met again nor lost. Raises OSError."""
    broken = path.with_name(f"{path.name}.broken-{secrets.token_hex(4)}")
    os.replace(path, broken)
    return broken


def make_private(folder: Path) -> None:
    """Creates a folder for this user alone; `Path.mkdir` gives its mode only to the last of those it makes."""
    for missing in reversed([parent for parent in (folder, *folder.parents) if not parent.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
