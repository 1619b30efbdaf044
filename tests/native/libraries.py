"""The libraries that were built here and that this processor can run."""

from __future__ import annotations

import pytest

from engine.native.library import levels

EACH = [pytest.param(level, id=level) for level in levels()]
