"""Which files are generated, and from what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ctx_lsp.generate import lua, typescript

_EDITORS = Path(__file__).parents[2] / "editors"

FILES: dict[Path, Callable[[], str]] = {
    _EDITORS / "vscode/src/protocol.ts": typescript.module,
    _EDITORS / "nvim/lua/ctx_lsp/protocol.lua": lua.module,
}
