"""For all tests: hypothesis sets no time limits, a slow machine is no failure; speeds measured here are not kept."""

from __future__ import annotations

import atexit
import os
import tempfile

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_speeds = tempfile.TemporaryDirectory(prefix="speeds-")
atexit.register(_speeds.cleanup)
os.environ["CTX_LSP_SPEED_DIR"] = _speeds.name
