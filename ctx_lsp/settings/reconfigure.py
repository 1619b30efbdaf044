"""What changed options mean to a running session: what counts from now on, and what takes another engine.

Options that are read where they are used (`fidelity`, `latencyBudgetMs`) need nothing. Knows no configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctx_lsp.client import logs
from ctx_lsp.settings.settings import Change

if TYPE_CHECKING:
    from ctx_lsp.session import Session

_ENGINE = ("model", "device", "dtype", "kv_dtype", "max_context", "kv_cache_tokens", "threads", "engine")


async def reconfigure(session: Session, change: Change) -> None:
    """Makes a session follow its changed options. Raises EngineError."""
    options = change.after
    logs.set_level(options.log_level)
    session.documents.configure(options.documents, options.debounce_ms / 1000)
    if change.touches("files"):
        session.workspace.rules_changed()
    session.context.configure(options.instructions, options.order)
    if change.touches(*_ENGINE) or (change.touches("instructions") and options.instructions is None):
        await session.change_engine()  # the engine's own instructions are those of a new context
    elif change.touches("instructions", "order"):
        await session.renew_context()
    if change.touches("idle_timeout"):
        session.editor.log("idleTimeout counts for engines started from now on; `ctx-lsp engine stop` ends this one")
