"""Which library is taken, and which is not."""

from __future__ import annotations

import ctypes

import pytest

from engine.native import library
from engine.native.library import is_current, levels, load_level, load_library


def test_the_best_that_the_processor_has_is_taken() -> None:
    best = load_library()
    assert best is not None
    assert best._name == load_level(levels()[0])._name  # type: ignore[union-attr]


def test_one_of_other_sources_is_not_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert not is_current(ctypes.CDLL(None)), "it has no such symbol"
    monkeypatch.setattr(library, "SIZES", (1, 2, 3, 4, 5))
    assert load_level(levels()[0]) is None
    assert "install ctx-lsp anew" in caplog.text
