"""AnswerText: an answer's tokens, as they come, to what is shown of them: thoughts apart, up to a stop string.

Puts detokenizer, thinking marks and stop strings together; knows nothing of KV or of when tokens are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.runtime.channels import ChannelSplitter, find_channels
from engine.runtime.detokenizer import IncrementalDetokenizer
from engine.runtime.reasoning import Piece, PlainSplitter, Splitter, find_marks, mark_splitter
from engine.runtime.stop_strings import StopChecker
from engine.tokenizer import Tokenizer
from engine.types import ChatDelta


class AnswerText:
    """The text of one answer. `push` its tokens but for the end of turn, then `flush`; neither after `over`.

    Attributes:
        text, reasoning: what was passed on so far, joined.
        over: the text has ended by itself: a stop string has come, or the model has closed its answer.
        inner_ends: tokens that end messages within the answer, and so not the answer.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: tuple[str, ...]) -> None:
        """`prompt`: the end of it at least, for templates that begin the answer themselves."""
        self._tokenizer = tokenizer
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._splitter = _splitter(tokenizer, prompt)
        self._stops = StopChecker(stop)
        self._said: list[int] = []
        self._pushed = self._thought = 0
        channels = find_channels(tokenizer)
        self.inner_ends = frozenset[int]() if channels is None else frozenset({channels.end})
        self.text = ""
        self.reasoning = ""

    @property
    def over(self) -> bool:
        return self._stops.stopped or self._splitter.over

    def push(self, token: int) -> list[ChatDelta]:
        """What this token makes certain."""
        splitter = self._splitter
        thinking, is_mark = splitter.thinking, splitter.is_mark(token)
        if is_mark:
            pieces = splitter.push(self._detokenizer.flush()) + splitter.mark(token)
        else:
            pieces = splitter.push(self._detokenizer.push(token))
        said = any(kind == "answer" and text for kind, text in pieces)
        self._count(token, is_mark or splitter.thinking or (thinking and not said), thinking)
        return self._deltas(pieces)

    def flush(self) -> list[ChatDelta]:
        """What was held back."""
        pieces = self._splitter.push(self._detokenizer.flush()) + self._splitter.flush()
        deltas = self._deltas(pieces)
        rest = self._stops.flush()
        self.text += rest
        return [*deltas, ChatDelta(rest)] if rest else deltas

    def _count(self, token: int, thought: bool, thinking: bool) -> None:
        """Book a token: `thought` if nothing of it is said, `thinking` if thoughts were open when it came."""
        self._pushed += 1
        if self._splitter.over:
            return
        if thought or thinking:
            self._thought = self._pushed
        if thought:
            self._said.clear()
        else:
            self._said.append(token)

    def _deltas(self, pieces: list[Piece]) -> list[ChatDelta]:
        deltas = []
        for kind, text in pieces:
            if kind == "answer":
                text = self._stops.push(text)[0]
                self.text += text
            else:
                self.reasoning += text
            if text:
                deltas.append(ChatDelta(text, kind))
        return deltas

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens the thoughts took, marks included."""
        return self._thought if self.reasoning else 0

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids that say exactly `text`, without what the template puts around it.

        Empty if it was cut short of them, or if a token holds more than it.
        """
        decode, special = self._tokenizer.decode, self._tokenizer.special_ids
        ids = list(self._said)
        while ids and ids[-1] in special:
            ids.pop()
        while ids and (ids[0] in special or (decode(ids) != self.text and not decode(ids[:1]).strip())):
            del ids[0]
        whole = not self._stops.stopped and decode(ids) == self.text
        return tuple(ids) if whole else ()


def _splitter(tokenizer: Tokenizer, prompt: Sequence[int]) -> Splitter:
    channels = find_channels(tokenizer)
    if channels is not None:
        return ChannelSplitter(channels, tokenizer, prompt)
    marks = find_marks(tokenizer)
    return PlainSplitter() if marks is None else mark_splitter(marks, tokenizer, prompt)
