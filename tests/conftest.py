"""For all tests: hypothesis sets no time limits, a slow machine is no failure; speeds measured here are not kept.

Where there is no GPU, Triton's kernels are interpreted, which must be said before they are defined.
"""

from __future__ import annotations

import atexit
import os
import tempfile

import torch
from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_speeds = tempfile.TemporaryDirectory(prefix="speeds-")
atexit.register(_speeds.cleanup)
os.environ["CTX_LSP_SPEED_DIR"] = _speeds.name

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
