"""When an answer counts as right. Knows nothing of models or files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """What an answer must say, and what it must not say before that.

    Attributes:
        accepted: spellings, of which one must occur as words of its own.
        refused: what makes it wrong if it comes first, e.g. the other one of two possible values.
    """

    accepted: tuple[str, ...]
    refused: tuple[str, ...] = ()

    def met_by(self, answer: str) -> bool:
        """Whether the answer says it. Case matters where a spelling has capitals: FLASK is not flask."""
        right = _first(self.accepted, answer)
        return right < len(answer) and right < _first(self.refused, answer)


def _first(texts: Iterable[str], answer: str) -> int:
    """Where the first of them begins in the answer, else the answer's length."""
    return min((_find(text, answer) for text in texts), default=len(answer))


def _find(text: str, answer: str) -> int:
    """Where the text begins that is not part of a longer word, number or hyphenated name, else the answer's length."""
    before, after = r"(?<![\w-])(?<!\d\.)", r"(?![\w-])(?!\.\d)"
    flags = re.IGNORECASE if text.islower() else re.NOFLAG
    found = re.search(f"{before}{re.escape(text)}{after}", answer, flags)
    return found.start() if found else len(answer)
