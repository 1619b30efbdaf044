"""How many tokens a text has: as the server counts them where it does, else an estimate that learns from its answers.

Blocking where the server is asked. Knows texts and numbers; knows nothing of chunks or HTTP.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

_KEPT = 8192
_BYTES_PER_TOKEN = 3.0  # of code; prose has more
_TELLING_TOKENS = 200  # a shorter prompt is mostly its template's own tokens


class TokenCounter:
    """Counts, and remembers what it was told.

    Attributes:
        estimated: nobody can be asked, so counts are guesses from the size.
    """

    def __init__(self, ask: Callable[[str], int] | None) -> None:
        self._ask = ask
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._bytes_per_token = _BYTES_PER_TOKEN
        self.estimated = ask is None

    def count(self, text: str) -> int:
        data = text.encode("utf-8", "surrogatepass")
        if self._ask is None:
            return round(len(data) / self._bytes_per_token) or bool(data)
        key = hashlib.sha256(data).digest()
        if key not in self._known:
            self._known[key] = self._ask(text)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def learn(self, text: str, tokens: int) -> None:
        """A whole prompt turned out to have so many tokens: later estimates go by that."""
        if tokens >= _TELLING_TOKENS:
            self._bytes_per_token = len(text.encode("utf-8", "surrogatepass")) / tokens
