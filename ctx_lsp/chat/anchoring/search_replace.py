"""Search blocks, each with what replaces it: `<<<<<<< SEARCH`, `=======`, `>>>>>>> REPLACE`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ctx_lsp.chat.anchoring.hunks import Hunk
from ctx_lsp.chat.anchoring.lines import UnsureError

_SEARCH = re.compile(r"<{5,9} ?(?:SEARCH|ORIGINAL)\b")
_MIDDLE = re.compile(r"={5,9}\s*$")
_REPLACE = re.compile(r">{5,9} ?(?:REPLACE|UPDATED)\b")


def is_search_replace(lines: Sequence[str]) -> bool:
    return any(_SEARCH.match(line) for line in lines)


def read_search_replace(lines: Sequence[str]) -> list[Hunk]:
    """What is outside of the markers is left out. Raises UnsureError for markers that are missing."""
    hunks: list[Hunk] = []
    rest = list(lines)
    while (search := _index(rest, _SEARCH)) is not None:
        rest = rest[search + 1 :]
        middle = _index(rest, _MIDDLE)
        replace = None if middle is None else _index(rest, _REPLACE)
        if middle is None or replace is None or replace < middle:
            raise UnsureError("a search block has no end: expected ======= and >>>>>>> REPLACE")
        hunks.append(Hunk(tuple(rest[:middle]), tuple(rest[middle + 1 : replace])))
        rest = rest[replace + 1 :]
    return hunks


def _index(lines: Sequence[str], marker: re.Pattern[str]) -> int | None:
    return next((index for index, line in enumerate(lines) if marker.match(line)), None)
