"""The safetensors files of a model's folder, as one set of named tensors that are read one at a time.

Never unpickles anything. Knows nothing of architectures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import BrokenModelError, ModelNotFoundError, UnsupportedModelError
from engine.models.mapped_file import MappedFile

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FLOATS = {"F64", "F32", "F16", "BF16"}


class Checkpoint:
    """Tensors by name, wherever their file is. Files are mapped, so a tensor costs memory only while it is copied.

    Args:
        files: the file of each tensor, opened by `safe_open`.
        paths: where each of these files is; without, tensors can't be had as views of it.
    """

    def __init__(self, files: dict[str, Any], paths: dict[str, Path] | None = None) -> None:
        self._files = files
        self._paths = paths or {}
        self._mapped: dict[Path, MappedFile] = {}

    @property
    def names(self) -> list[str]:
        """Sorted, so independent of how the tensors are spread over files."""
        return sorted(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Look whether tensor `name` is what the config asks for, before any memory is taken for it.

        Raises:
            BrokenModelError: missing, or of another shape.
            UnsupportedModelError: its dtype is quantized.
        """
        if name not in self._files:
            raise BrokenModelError(f"the weights have no {name}, which the model's config asks for", tensor=name)
        entry = self._files[name].get_slice(name)
        found, dtype = tuple(entry.get_shape()), entry.get_dtype()
        if found != shape:
            raise BrokenModelError(f"{name} has shape {found}; the config asks for {shape}", tensor=name)
        if dtype not in _FLOATS:
            raise UnsupportedModelError(f"{name} holds {dtype}; supported are {', '.join(sorted(_FLOATS))}")

    def read_into(self, name: str, target: Tensor, part: tuple[slice, ...] = ()) -> None:
        """Copy tensor `name`, or this part of it, into `target` of that shape, converting dtype and device."""
        file = self._files[name]
        target.copy_(file.get_slice(name)[part] if part else file.get_tensor(name))

    def stacked(self, names: Sequence[str], dtype: torch.dtype) -> Tensor | None:
        """Tensors of the same columns, one upon the other, as a view of the file; None where it doesn't hold them so.

        The view stays when the checkpoint is closed. It must not be written to, nor the file.
        """
        paths = {self._paths[name] for name in names}
        return self._map(paths.pop(), names[0]).stacked(names, dtype) if len(paths) == 1 else None

    def _map(self, path: Path, name: str) -> MappedFile:
        if path not in self._mapped:
            self._mapped[path] = MappedFile(path, self._files[name])
        return self._mapped[path]

    def sample(self, name: str) -> tuple[str, bytes]:
        """Dtype and shape in words, and the bytes of a few rows (first, middle, last): cheap, whatever the size."""
        entry = self._files[name].get_slice(name)
        shape = entry.get_shape()
        rows = sorted({0, shape[0] // 2, shape[0] - 1}) if shape and shape[0] else []
        content = b"".join(entry[row : row + 1].contiguous().view(torch.uint8).numpy().tobytes() for row in rows)
        return f"{entry.get_dtype()}{shape}", content


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Open the weights in `folder`, sharded or not, until the end of the block.

    Raises:
        ModelNotFoundError: no such folder, or no safetensors in it.
        BrokenModelError: a file is missing or damaged.
    """
    with ExitStack() as stack:
        files, paths = dict[str, Any](), dict[str, Path]()
        for path in _paths(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            except (OSError, SafetensorError) as error:
                raise BrokenModelError(f"{path} can't be read: {error}; fetch it again", file=path.name) from error
            files.update(dict.fromkeys(file.keys(), file))
            paths.update(dict.fromkeys(file.keys(), path))
        yield Checkpoint(files, paths)


def _paths(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if (folder / _INDEX).is_file():
        return _shards(folder)
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no folder {folder}")
    raise ModelNotFoundError(f"{folder} has neither {_SINGLE} nor {_INDEX}; weights are read from safetensors only")


def _shards(folder: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BrokenModelError(f"{folder / _INDEX} can't be read: {error!r}", file=_INDEX) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BrokenModelError(f"{folder} lacks {', '.join(missing)}, which {_INDEX} names", file=missing[0])
    return [folder / name for name in names]
