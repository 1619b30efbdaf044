"""The secret that clients of a listening server must know: in a file that is the user's alone, or in the environment.

Never on a command line, where every user of the machine could read it.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.serve import runtime_file

VARIABLE = "CTX_LSP_TOKEN"
_FILE = "server.token"


class UnauthorizedError(EngineError):
    """The client of a listening server does not know its token."""

    code = "unauthorized"
    status = 401


@dataclass(frozen=True)
class AccessToken:
    """The secret, and for people where it can be read."""

    secret: str
    place: str

    def check(self, offered: object) -> None:
        """Raises UnauthorizedError. Takes as long for a secret that is nearly right as for any other."""
        given = offered if isinstance(offered, str) else ""
        if not hmac.compare_digest(given.encode(errors="surrogatepass"), self.secret.encode()):
            raise UnauthorizedError(
                f"the token is {'wrong' if given else 'missing'}: send what is in {self.place} as "
                "initializationOptions.token"
            )


def access_token(path: Path | None = None) -> AccessToken:
    """From the file, made anew if it isn't there; without one from the environment, else from the runtime folder.

    Raises PermissionError for a file that others can read, ValueError for an empty secret.
    """
    if path is None and (secret := os.environ.get(VARIABLE)) is not None:
        return _checked(secret, f"the environment variable {VARIABLE}")
    if path is None:
        runtime_file.prepare_folder(runtime_file.runtime_dir())
        path = runtime_file.runtime_dir() / _FILE
    try:
        _create(path)
    except FileExistsError:
        _check_mode(path)
    return _checked(path.read_text(encoding="utf-8"), str(path))


def _create(path: Path) -> None:
    """Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_urlsafe(32) + "\n")


def _check_mode(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(f"{path} must be yours alone: chmod 600 it, or remove it")


def _checked(text: str, place: str) -> AccessToken:
    if not text.strip():
        raise ValueError(f"there is no token in {place}")
    return AccessToken(text.strip(), place)
