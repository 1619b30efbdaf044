"""Fetches one file from the Hugging Face hub: from the user's hub cache if it lies there, else by download.

All network work is huggingface_hub's; this only keeps it from hanging where the hub can't be reached.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.models.catalogue import CatalogueModel, HubFile
from engine.models.progress import Progress, watch_size
from engine.models.source import SourceError, check_delivery
from engine.models.stamp import sha256_of

CONNECT_TIMEOUT = 5.0
"""Seconds until a hub that doesn't answer counts as out of reach."""


def fetch_from_hub(source: HubFile, model: CatalogueModel, staging: Path, progress: Progress) -> Path:
    """Path of the verified file inside `staging`. An interrupted download is resumed by the next call.

    Raises:
        SourceError: out of reach, refused, or not the file the catalogue names.
    """
    try:
        path = _copy_from_cache(source, model, staging) or _download(source, model, staging, progress)
    except SourceError:
        raise
    except Exception as error:  # the hub client raises errors of several libraries, without a common base
        raise SourceError(first_line(error)) from error
    progress(f"Checking {model.name}", None)
    try:
        check_delivery(model, path.stat().st_size, sha256_of(path))
    except SourceError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return path


def _copy_from_cache(source: HubFile, model: CatalogueModel, staging: Path) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source.repo, source.filename)
    if not isinstance(cached, str) or Path(cached).stat().st_size != model.bytes:
        return None
    staging.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(cached, staging / model.filename))


def _download(source: HubFile, model: CatalogueModel, staging: Path, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # public, not in __all__

    message = f"Downloading {model.name} from the Hugging Face hub"
    progress(message, None)
    _probe(source, model)
    disable_progress_bars()
    with watch_size(staging, lambda done: progress(message, min(done / model.bytes, 1.0))):
        return Path(hf_hub_download(source.repo, source.filename, local_dir=staging, etag_timeout=CONNECT_TIMEOUT))


def _probe(source: HubFile, model: CatalogueModel) -> None:
    """One quick question before the download, which would retry for half a minute where there is no network."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise SourceError("HF_HUB_OFFLINE is set")
    found = get_hf_file_metadata(hf_hub_url(source.repo, source.filename), timeout=CONNECT_TIMEOUT)
    if found.size is not None and found.size != model.bytes:
        raise SourceError(f"offers {found.size:,} bytes where {model.bytes:,} were expected")


def first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
