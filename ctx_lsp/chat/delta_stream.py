"""An answer's text sent on in pieces at a bearable rate. Knows pieces and time, nothing of what they mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ctx_lsp.protocol import ChatDelta, DeltaKind

_DELTA_SECONDS = 1 / 30


class DeltaStream:
    """Sends pieces of text, numbered: the first at once, then what has gathered, 30 times a second, and whenever the
    kind changes.
    """

    def __init__(self, turn_id: str, send: Callable[[ChatDelta], None]) -> None:
        self._turn_id = turn_id
        self._send = send
        self._seq = 0
        self._gathered: list[str] = []
        self._kind: DeltaKind = "answer"
        self._timer: asyncio.TimerHandle | None = None

    def put(self, text: str, kind: DeltaKind = "answer") -> None:
        if kind != self._kind:
            self.flush()
            self._kind = kind
        self._gathered.append(text)
        if self._timer is None:
            self._flush_and_rest()

    def flush(self) -> None:
        if self._gathered:
            text = "".join(self._gathered)
            self._send(ChatDelta(turn_id=self._turn_id, seq=self._seq, text=text, kind=self._kind))
            self._seq += 1
            self._gathered.clear()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _flush_and_rest(self) -> None:
        self._timer = None
        if self._gathered:
            self.flush()
            self._timer = asyncio.get_running_loop().call_later(_DELTA_SECONDS, self._flush_and_rest)
