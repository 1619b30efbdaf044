"""ctx-lsp's inference engine: chunks, KV, attention, models, scheduling. Knows nothing of LSP or editors.

Importing the package is cheap: `Engine` (and with it torch) is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.config import EngineConfig, SamplingParams
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.engine import Context, Engine

__all__ = ["Context", "Engine", "EngineConfig", "EngineError", "SamplingParams"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Engine", "Context"):
        from engine import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
