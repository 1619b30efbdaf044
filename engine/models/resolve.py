"""From what a user calls a model to a folder that can be loaded: config.json, *.safetensors, tokenizer files.

Decides only which kind of name it is; fetching and converting live in their own files, and what those need is imported
where they are called: a folder can be loaded without it. Free of torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.errors import ModelNotFoundError, UnsupportedModelError
from engine.models import catalogue
from engine.models.hub_snapshot import fetch_snapshot, is_complete
from engine.models.progress import Progress, silent

HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w.-]+))?")


def resolve_model(model: str, *, progress: Progress | None = None) -> Path:
    """Folder of the model. Fetches and converts where needed (minutes); at once where nothing is missing.

    Args:
        model: a catalogue name, a folder, a .gguf file, or a hub repository (`owner/name`, `owner/name@revision`).
        progress: gets (message, fraction or None), perhaps from a helper thread.

    Raises:
        ModelNotFoundError: it is none of these.
        UnsupportedModelError: a folder or repository without safetensors.
        DownloadError: no source delivered it.
        ConversionError: the GGUF could not be converted.
    """
    report = progress or silent
    known = catalogue.find(model)
    if known is not None:
        from engine.models.fetch import fetch

        return _converted(fetch(known, progress=report), report)
    path = Path(model).expanduser()
    if model and path.is_dir():
        return _checked(path.absolute())
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _converted(path, report)
    hub = HUB_ID.fullmatch(model)
    if hub and not path.exists() and path.suffix.lower() != ".gguf":
        return fetch_snapshot(hub["repo"], hub["revision"], report)
    raise ModelNotFoundError(
        f"{model!r} is neither a folder, a .gguf file, a hub repository (owner/name), nor one of "
        + ", ".join(catalogue.names()),
        model=model,
        known=list(catalogue.names()),
    )


def _converted(file: Path, report: Progress) -> Path:
    from engine.models import gguf

    return gguf.convert(file, progress=report)


def _checked(folder: Path) -> Path:
    if not is_complete(folder):
        if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
            raise UnsupportedModelError(
                f"the weights in {folder} are pickled, and such files are never opened; save the model as safetensors",
                model=str(folder),
            )
        raise UnsupportedModelError(f"{folder} lacks config.json or *.safetensors files", model=str(folder))
    return folder
