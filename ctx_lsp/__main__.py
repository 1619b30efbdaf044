"""`python -m ctx_lsp` is `ctx-lsp`; without arguments it is `ctx-lsp serve`, which is what editors start."""

from __future__ import annotations

import sys

from ctx_lsp.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["serve"]))
