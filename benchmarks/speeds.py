"""Where a benchmark's engines keep the speeds they learn: apart from the user's own, and gone when it ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from engine.speed_file import FOLDER_VARIABLE


@contextmanager
def own_speeds() -> Iterator[None]:
    """Engines made in this block begin with what earlier ones of it have learned, and with nothing else."""
    before = os.environ.get(FOLDER_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="speeds-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[FOLDER_VARIABLE]
            else:
                os.environ[FOLDER_VARIABLE] = before
