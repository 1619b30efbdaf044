"""Turns a GGUF file into a safetensors folder, once, and finds that folder again.

The work is done by `gguf_conversion` in a process of its own, so that its peak memory (the whole model dequantized)
is given back and nothing of torch is imported here. Knows nothing of where the GGUF came from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import engine
from engine.errors import ConversionError
from engine.models.catalogue import cache_root, lock_file
from engine.models.progress import Progress, silent
from engine.models.stamp import write_atomically

if TYPE_CHECKING:
    from filelock import FileLock

CONVERSION_VERSION = 3
"""Raise it whenever `gguf_conversion` would write something else: older folders are then converted anew."""

STAMP = "conversion.json"


def convert(gguf: Path, *, progress: Progress = silent) -> Path:
    """Folder with config.json, generation_config.json, bfloat16 safetensors, tokenizer and chat template.

    Matrices that the GGUF has quantized are there a second time, as they were (`packed_weights`).

    At once if it was converted before, else 15 to 60 seconds; several processes may call it at the same time.

    Raises:
        ConversionError: not a GGUF, an architecture transformers can't read, too little memory or disk.
    """
    gguf = gguf.absolute()
    folder = converted_folder(gguf)
    if is_converted(gguf):
        return folder
    from filelock import Timeout  # only here: whoever loads a folder can do without

    lock = _lock(folder)
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            progress(f"Waiting for another process that converts {gguf.name}", None)
    try:
        if not is_converted(gguf):
            _convert_into(folder, gguf, progress)
    finally:
        lock.release()
    return folder


def converted_folder(gguf: Path) -> Path:
    """Where the converted model lies: beside the GGUF, or in the cache if that folder can't be written."""
    gguf = gguf.absolute()
    name = f"{gguf.stem}-safetensors"
    if os.access(gguf.parent, os.W_OK) or (gguf.parent / name).exists():
        return gguf.parent / name
    return cache_root() / "converted" / f"{name}-{hashlib.sha256(str(gguf).encode()).hexdigest()[:12]}"


def is_converted(gguf: Path) -> bool:
    """Whether the converted folder is whole, of this GGUF as it is now, and of this version."""
    folder = converted_folder(gguf)
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return bool(stamp == _stamp(gguf, folder))
    except (OSError, ValueError):
        return False


def is_conversion(folder: Path) -> bool:
    """Whether `folder` was made by `convert`: its files are never written to again, only replaced with the folder."""
    return (folder / STAMP).is_file()


def _stamp(gguf: Path, folder: Path) -> dict[str, object]:
    """What must be unchanged for `folder` to stand for `gguf`; its files' sizes tell a truncated or thinned-out one."""
    source = gguf.stat()
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != STAMP}
    return {
        "version": CONVERSION_VERSION,
        "source": {"name": gguf.name, "size": source.st_size, "mtime_ns": source.st_mtime_ns},
        "files": files,
    }


def _lock(folder: Path) -> FileLock:
    from filelock import FileLock

    path = lock_file(f"convert-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def _convert_into(folder: Path, gguf: Path, progress: Progress) -> None:
    """Converts into a temporary neighbour of `folder`, stamps it, and gives it the name."""
    prefix = f".{folder.name}."
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    except OSError as error:
        raise ConversionError(f"{folder.parent} can't be written: {error}", model=str(gguf)) from error
    try:
        _run_conversion(gguf, temporary, progress)
        temporary.chmod(0o755)
        write_atomically(temporary / STAMP, _stamp(gguf, temporary))
        if folder.exists():
            os.replace(folder, temporary.with_name(f"{prefix}old"))
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary.with_name(f"{prefix}old"), ignore_errors=True)


def _run_conversion(gguf: Path, folder: Path, progress: Progress) -> None:
    command = [sys.executable, "-P", "-m", "engine.models.gguf_conversion", str(gguf), str(folder)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
        )
        try:
            assert child.stdout is not None
            _relay(child.stdout, f"Converting {gguf.name}", progress)
            status = child.wait()
        finally:
            child.kill()
            child.wait()
        if status != 0:
            raise ConversionError(f"{gguf.name} could not be converted: {_cause(status, log)}", model=str(gguf))


def _environment() -> dict[str, str]:
    """The child finds this very package, asks nothing of any network, and shows no bars."""
    here = str(Path(engine.__file__).parent.parent)
    path = os.pathsep.join(entry for entry in (here, os.environ.get("PYTHONPATH")) if entry)
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _relay(lines: IO[str], title: str, progress: Progress) -> None:
    """Each line of the child is a JSON report; anything else a library printed there is passed over."""
    progress(title, None)
    for line in lines:
        try:
            report = json.loads(line)
            progress(f"{title}: {report['step']}", report["fraction"])
        except (ValueError, TypeError, KeyError):
            continue


def _cause(status: int, log: IO[str]) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"the converter was ended by {name}" + (
            ", as happens when memory runs out" if status == -signal.SIGKILL else ""
        )
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {status}"
