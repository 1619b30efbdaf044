"""One answer of a server of OpenAI's API as it comes: what it has said, and what it took in this project's figures.

Where the server doesn't tell a figure it is guessed from the prompt. Knows no server.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ctx_lsp.engines.client import AnswerPiece
from ctx_lsp.engines.openai_prompt import Prompt
from ctx_lsp.engines.openai_server import Tally
from ctx_lsp.protocol import StopReason, Timing, Usage

_TELLING_TOKENS = 64  # fewer say nothing of how fast a prompt is computed


class Answer:
    """Takes the items of a stream, then tells of the whole."""

    def __init__(self, prompt: Prompt, guess: Sequence[int]) -> None:
        """`guess`: tokens of each of the prompt's pieces that should be reused."""
        self.prompt = prompt
        self._guess = tuple(guess)
        self._tally = Tally()
        self._texts: list[str] = []
        self._pieces = 0
        self._thoughts = 0
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = self._began

    def take(self, item: AnswerPiece | Tally) -> None:
        self._last = time.monotonic()
        if isinstance(item, Tally):
            self._tally = item
            return
        self._first = self._first or self._last
        self._pieces += 1
        if item.kind == "answer":
            self._texts.append(item.text)
        else:
            self._thoughts += 1

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def stop_reason(self) -> StopReason:
        return "length" if self._tally.finish == "length" else "stop"

    @property
    def reused(self) -> tuple[int, ...]:
        """Tokens of each of the prompt's pieces that were not computed anew."""
        told, counted = self._tally.cached_tokens, self._tally.prompt_tokens
        if told is None:
            return self._guess
        return self.prompt.spread(round(told * self.prompt.tokens / counted) if counted else told)

    @property
    def usage(self) -> Usage:
        """Pieces stand for tokens where the server doesn't count: most send one at a time."""
        tally = self._tally
        prompt = tally.prompt_tokens or self.prompt.tokens
        reused = tally.cached_tokens
        if reused is None:
            reused = round(sum(self._guess) * prompt / self.prompt.tokens)
        return Usage(
            prompt_tokens=prompt,
            reused_tokens=min(reused, prompt),
            prefilled_tokens=prompt - min(reused, prompt),
            completion_tokens=self._pieces if tally.completion_tokens is None else tally.completion_tokens,
            reasoning_tokens=self._thoughts if tally.reasoning_tokens is None else tally.reasoning_tokens,
        )

    def timing(self) -> Timing:
        first = self._last if self._first is None else self._first
        decoding = self._last - first
        speed = (self.usage.completion_tokens - 1) / decoding if decoding > 0 else 0.0
        return Timing(
            queued=0.0,
            time_to_first_token=first - self._began,
            total=self._last - self._began,
            tokens_per_second=max(0.0, speed),
        )

    def speed(self) -> float | None:
        """Tokens of a prompt that are computed in a second; None where this prompt doesn't tell."""
        seconds = self._tally.prefill_seconds or self.timing().time_to_first_token
        prefilled = self.usage.prefilled_tokens
        return prefilled / seconds if prefilled >= _TELLING_TOKENS and seconds > 0 else None
