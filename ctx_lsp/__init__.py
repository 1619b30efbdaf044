"""The language server and the terminal chat. Knows the LSP protocol and the engine's HTTP API; knows no tensors.

Never imports torch or transformers, not even indirectly: it must start in well under a second.
"""

from __future__ import annotations

from engine import __version__

__all__ = ["__version__"]
