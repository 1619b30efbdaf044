"""Where a model's GGUF lies, for peers that read such files themselves."""

from __future__ import annotations

from pathlib import Path

from engine.models import catalogue


def gguf_file(model: str) -> Path:
    """Of a catalogue name or a path.

    Raises:
        ValueError: the model has none, or it is not on this machine.
    """
    known = catalogue.find(model)
    path = catalogue.model_file(known) if known else Path(model).expanduser()
    if path.suffix.lower() != ".gguf" or not path.is_file():
        raise ValueError(f"{model} is no GGUF on this machine, which is all that llama.cpp reads")
    return path
