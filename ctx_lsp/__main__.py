"""`python -m ctx_lsp` is `ctx-lsp`."""

from __future__ import annotations

import sys

from ctx_lsp.cli import main

if __name__ == "__main__":
    sys.exit(main())
