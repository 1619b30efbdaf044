"""Every error the engine raises on purpose.

Each class carries a stable `code` (the same word in Python, HTTP and LSP) and a message that says what to do.
Knows nothing of HTTP or LSP: `status` is a hint that the server layers may translate.
"""

from __future__ import annotations

from typing import Any


class EngineError(Exception):
    """Base of all typed errors.

    Attributes:
        code: stable machine-readable word, e.g. ``unknown_chunk``.
        status: the HTTP status that fits.
        data: JSON-ready details (candidates, limits, …).
    """

    code = "engine_error"
    status = 500

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class InvalidRequestError(EngineError):
    """A parameter has the wrong type or value."""

    code = "invalid_request"
    status = 400


class UnknownContextError(EngineError):
    """No context has this id."""

    code = "unknown_context"
    status = 404


class UnknownChunkError(EngineError):
    """No chunk of the context matches the reference."""

    code = "unknown_chunk"
    status = 404


class AmbiguousChunkError(EngineError):
    """A hash prefix or name matches several chunks; `data["candidates"]` lists their hashes."""

    code = "ambiguous_chunk"
    status = 409


class EmptyChunkError(EngineError):
    """A chunk must hold at least one character."""

    code = "empty_chunk"
    status = 400


class ContextFullError(EngineError):
    """The composition does not fit the context window; `data` has `needed` and `limit` in tokens."""

    code = "context_full"
    status = 413


class OutOfMemoryError(EngineError):
    """The KV pool is held by running answers and can't serve this one now."""

    code = "out_of_memory"
    status = 503


class EngineBusyError(EngineError):
    """The engine is shutting down or has stopped."""

    code = "engine_stopped"
    status = 503


class ModelNotFoundError(EngineError):
    """The model is neither a folder, a GGUF file, nor a catalogue name that can be had."""

    code = "model_not_found"
    status = 404


class UnsupportedModelError(EngineError):
    """The architecture, or a feature of its config, is not supported."""

    code = "unsupported_model"
    status = 400


class BrokenModelError(EngineError):
    """The model's files are damaged or incomplete, or don't fit its config."""

    code = "broken_model"
    status = 500


class DownloadError(EngineError):
    """No source delivered the model's file, or what arrived has the wrong hash."""

    code = "download_failed"
    status = 502


class ConversionError(EngineError):
    """A GGUF file could not be turned into safetensors; the message ends with the cause."""

    code = "conversion_failed"
    status = 500
