"""`python -m engine.serve` is the console script `ctx-engine`."""

from __future__ import annotations

import sys

from engine.serve.main import main

if __name__ == "__main__":
    sys.exit(main())
