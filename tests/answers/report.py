"""The results as a table for people."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.answers.exam import Result


def table(results: Sequence[Result], width: int) -> str:
    """A row for each question, and the two scores below; `width` in columns."""
    rows = Table("Question", "Expected", "Engine", "", "Transformers", "", "Reused", "Prefilled", expand=True)
    for column in rows.columns[-2:]:
        column.justify, column.no_wrap = "right", True
    for result in results:
        usage = result.done.usage
        rows.add_row(
            result.question,
            " or ".join(result.expected.accepted),
            _short(result.done.text),
            _mark(result.engine_right),
            _short(result.transformers),
            _mark(result.transformers_right),
            f"{usage.reused_tokens:,}",
            f"{usage.prefilled_tokens:,}",
        )
    text = io.StringIO()
    console = Console(file=text, width=width, markup=False, highlight=False)
    console.print(rows)
    console.print(score(results))
    return text.getvalue()


def score(results: Sequence[Result]) -> str:
    """How many answers of each side are right, and how many are the same, in a sentence."""
    ours = sum(result.engine_right for result in results)
    theirs = sum(result.transformers_right for result in results)
    same = sum(result.done.text == result.transformers for result in results)
    return f"Right of {len(results)}: engine {ours}, transformers {theirs}; word for word the same: {same}."


def _short(answer: str) -> str:
    """The answer on one line, its end left out if it is long."""
    line = " ".join(answer.split())
    return line if len(line) <= 120 else f"{line[:119]}…"


def _mark(right: bool) -> str:
    return "right" if right else "wrong"
