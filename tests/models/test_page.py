"""docs/models.md says what loading the tests' models says."""

from __future__ import annotations

from tests.models.page import BEGIN, END, PAGE, table


def test_the_table_is_what_the_models_say():
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()
    assert written == table(), "write it anew with `python -m tests.models.page`"
