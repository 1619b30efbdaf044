"""How far the process can be reached: where it listens, by which names it may be called, which token it wants.

No further than this machine, unless it is asked for; then only with a token that was chosen for it. Knows addresses and
files, no requests.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset({LOOPBACK, "localhost", "[::1]"})
_FEWEST_CHARACTERS = 16


class ExposureError(Exception):
    """What was asked for isn't safe, or can't be done; the message says what to do."""


@dataclass(frozen=True)
class Exposure:
    """`names` are those that a request's Host header may have."""

    host: str
    names: frozenset[str]
    token: str


def expose(host: str, names: Iterable[str], token_file: Path | None) -> Exposure:
    """Checks what was asked for. Raises ExposureError."""
    if token_file is None and not _is_loopback(host):
        raise ExposureError(f"--host {host} lets other machines in: name the file of their token (--token-file)")
    token = secrets.token_urlsafe(32) if token_file is None else _read_token(token_file.expanduser())
    allowed = {name.lower() for name in names} | (set() if is_wildcard(host) else {in_url(host)})
    return Exposure(host, LOOPBACK_NAMES | allowed, token)


def in_url(host: str) -> str:
    """The host as URLs and Host headers have it."""
    return f"[{host}]" if ":" in host else host.lower()


def is_wildcard(host: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    address = _address(host)
    return address is not None and address.is_unspecified


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _read_token(path: Path) -> str:
    """The file's token; makes the file, with a fresh one, where there is none."""
    try:
        _create(path)
        if sys.platform != "win32" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ExposureError(f"{path} must be yours alone: chmod 600 {path}")
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ExposureError(f"the token can't be had: {error}") from error
    if len(token) < _FEWEST_CHARACTERS or not token.isascii() or len(token.split()) != 1:
        raise ExposureError(f"{path} must hold one word of {_FEWEST_CHARACTERS} ASCII characters or more")
    return token


def _create(path: Path) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
