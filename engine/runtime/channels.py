"""Channels: models that write their answer as messages with headers, of which only the `final` channel is the answer.

The format is OpenAI's harmony (gpt-oss): ``<|start|>assistant<|channel|>analysis<|message|>…<|end|>`` and so on. Knows
its tokens; nothing of generations or stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache

from engine.runtime.reasoning import Kind, Piece, Thoughts
from engine.tokenizer import Tokenizer

_FINAL = "final"


@dataclass(frozen=True)
class ChannelTokens:
    """Ids of the tokens that structure messages."""

    start: int
    channel: int
    message: int
    end: int


@lru_cache(maxsize=4)
def find_channels(tokenizer: Tokenizer) -> ChannelTokens | None:
    """The tokens, if the tokenizer has all of them."""
    added = {token.content: token_id for token_id, token in tokenizer.backend.get_added_tokens_decoder().items()}
    ids = [added.get(f"<|{name}|>") for name in ("start", "channel", "message", "end")]
    start, channel, message, end = ids
    if start is None or channel is None or message is None or end is None:
        return None
    return ChannelTokens(start, channel, message, end)


class ChannelSplitter:
    """Splits messages by their channels; a message without a channel, or outside of the format, is the answer.

    Attributes:
        over: a message of the answer has ended. The end of any other message is followed by the next one.
    """

    def __init__(self, tokens: ChannelTokens, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        """`prompt` ends in the header of the first message, or in its text."""
        self._tokens = tokens
        self._marks = frozenset(astuple(tokens))
        self._kind: Kind = "answer"
        self._in_header = False
        self._header = ""
        self._has_channel = False
        self._has_message = False
        self._thoughts = Thoughts()
        self.over = False
        self._replay(tokenizer, prompt)

    def _replay(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        """Read the header that the prompt has begun."""
        begin = next((at for at in reversed(range(len(prompt))) if prompt[at] == self._tokens.start), len(prompt))
        for token in prompt[begin:]:
            if token in self._marks:
                self.mark(token)
            else:
                self.push(tokenizer.decode([token]))
        if not self._has_channel:
            self._header = ""

    @property
    def thinking(self) -> bool:
        return self._in_header or self._kind == "reasoning"

    def is_mark(self, token: int) -> bool:
        return token in self._marks

    def mark(self, token: int) -> list[Piece]:
        tokens = self._tokens
        if token == tokens.message:
            self._in_header, self._has_message = False, True
            channel = self._header.split()
            self._kind = "reasoning" if self._has_channel and channel[:1] != [_FINAL] else "answer"
        elif token == tokens.end and not self.thinking:
            self.over = True
        else:
            self._thoughts.end()
            self._in_header, self._header, self._has_channel = True, "", token == tokens.channel
        return []

    def push(self, text: str) -> list[Piece]:
        if self._in_header:
            self._header += text
            return []
        return self._thoughts.push(text) if self._kind == "reasoning" else [("answer", text)]

    def flush(self) -> list[Piece]:
        formless = self._in_header and not self._has_channel and not self._has_message
        return [("answer", self._header)] if formless else []
