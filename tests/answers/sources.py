"""Real source files to ask about: members of wheels pinned by hash, fetched with the user's own pip.

The wheels are only read as archives, never installed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A pure Python wheel: an exact requirement, its file name and SHA-256."""

    requirement: str
    filename: str
    sha256: str


FLASK = Wheel(
    "flask==3.1.3",
    "flask-3.1.3-py3-none-any.whl",
    "f4bcbefc124291925f1a26446da31a5178f9483862233b23c0c96a20701f670c",
)
REQUESTS = Wheel(
    "requests==2.34.2",
    "requests-2.34.2-py3-none-any.whl",
    "2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0",
)


def read_files(wheel: Wheel, names: tuple[str, ...], folder: Path) -> dict[str, str]:
    """The members' texts by name, in the order of `names`; the wheel is kept in `folder`.

    Raises:
        RuntimeError: pip can't deliver the wheel, or it is not the pinned one.
    """
    with zipfile.ZipFile(_fetched(wheel, folder)) as archive:
        return {name: archive.read(name).decode() for name in names}


def _fetched(wheel: Wheel, folder: Path) -> Path:
    path = folder / wheel.filename
    if not path.exists():
        _download(wheel, folder)
    if hashlib.sha256(path.read_bytes()).hexdigest() != wheel.sha256:
        raise RuntimeError(f"{path} is not the wheel that the questions were made for")
    return path


def _download(wheel: Wheel, folder: Path) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--dest", str(folder)]
    command = [sys.executable, "-P", "-m", "pip", "download", *options, wheel.requirement]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"pip could not download {wheel.requirement}:\n{finished.stderr}")
