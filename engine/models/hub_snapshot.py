"""A whole model from the Hugging Face hub, into the user's own hub cache: weights, config and tokenizer, nothing else.

No pickle and no code is ever taken. All network work is huggingface_hub's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import DownloadError, EngineError, ModelNotFoundError, UnsupportedModelError
from engine.models.hub_source import CONNECT_TIMEOUT, first_line
from engine.models.progress import Progress, bytes_under, watch_size

WANTED = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "tekken.json",
    "*.tiktoken",
    "chat_template*",
]
REFUSED = ["*/*", "*.py", "*.bin", "*.pt", "*.pth", "*.pkl"]
"""Subfolders repeat the weights in other formats; the rest could run code."""

_FILTER: dict[str, Any] = {"allow_patterns": WANTED, "ignore_patterns": REFUSED}


def is_complete(folder: Path) -> bool:
    """Whether the config and every safetensors file that the index names are there."""
    index = folder / "model.safetensors.index.json"
    if not (folder / "config.json").is_file():
        return False
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(shards) and all((folder / shard).is_file() for shard in shards)


def fetch_snapshot(repo: str, revision: str | None, progress: Progress) -> Path:
    """Folder of the snapshot. One that is whole in the local cache is used without asking the hub for a newer one.

    Raises:
        ModelNotFoundError: the hub knows no such repository or revision.
        UnsupportedModelError: the repository has no safetensors.
        DownloadError: out of reach, or refused (gated, private).
    """
    cached = _cached(repo, revision)
    if cached is not None:
        return cached
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = repo if revision is None else f"{repo}@{revision}"
    try:
        return _download(repo, revision, f"Downloading {name} from the Hugging Face hub", progress)
    except EngineError:
        raise
    except Exception as error:  # the hub client raises errors of several libraries, without a common base
        unknown = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError)
        if unknown and not isinstance(error, GatedRepoError):
            raise ModelNotFoundError(f"the Hugging Face hub has no {name}", model=name) from error
        cause = {"source": f"Hugging Face hub ({repo})", "cause": first_line(error)}
        raise DownloadError(
            f"{name} could not be downloaded from the Hugging Face hub: {cause['cause']}", model=name, causes=[cause]
        ) from error


def _cached(repo: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, **_FILTER))
    except LocalEntryNotFoundError:
        return None
    return folder if is_complete(folder) else None


def _download(repo: str, revision: str | None, message: str, progress: Progress) -> Path:
    from huggingface_hub import constants, model_info, snapshot_download
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, not in __all__
        disable_progress_bars,
        filter_repo_objects,
    )

    progress(message, None)
    info = model_info(repo, revision=revision, files_metadata=True, timeout=CONNECT_TIMEOUT)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = list(filter_repo_objects(sizes, **_FILTER))
    if not any(name.endswith(".safetensors") for name in wanted):
        raise UnsupportedModelError(f"{repo} has no safetensors files; nothing else is loaded from a hub", model=repo)
    total = sum(sizes[name] for name in wanted) or 1
    store = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "blobs"
    before = bytes_under(store)  # other revisions' files, or a part that came earlier: close enough for a bar
    disable_progress_bars()
    with watch_size(store, lambda there: progress(message, min(max(there - before, 0) / total, 1.0))):
        folder = snapshot_download(repo, revision=revision, etag_timeout=CONNECT_TIMEOUT, **_FILTER)
    if not is_complete(Path(folder)):
        raise UnsupportedModelError(f"{repo} lacks config.json or some of its safetensors files", model=repo)
    return Path(folder)
