"""Thinking marks: which ones a model puts around what it thinks, and its text split by them into kinds.

Knows marks as tokens and as text, and where a prompt leaves the model; nothing of generations or stop strings. Models
that speak in channels are in `engine/runtime/channels.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from engine.tokenizer import Tokenizer

Kind = Literal["answer", "reasoning"]
Piece = tuple[Kind, str]

_WORD = r"(?i:[\w:]*(?:think|thought|reason)[\w:]*)"
_SHAPES = (
    (re.compile(rf"<({_WORD})>"), "</{}>"),
    (re.compile(rf"\[({_WORD})\]"), "[/{}]"),
    (re.compile(rf"<\|begin_of_({_WORD})\|>"), "<|end_of_{}|>"),
    (re.compile(rf"<\|START_({_WORD})\|>"), "<|END_{}|>"),
    (re.compile(rf"<\|start_of_({_WORD})\|>"), "<|end_of_{}|>"),
    (re.compile(rf"<\|({_WORD})\|>"), "<|/{}|>"),
    (re.compile(rf"◁({_WORD})▷"), "◁/{}▷"),
)
"""How opening marks are written, and the closing mark for the word in them."""

_PROMPT_END = 32
"""Tokens at the end of a prompt in which a mark is looked for."""


@dataclass(frozen=True)
class Mark:
    """`token` is its id if it is a token of its own; then only that token is the mark, and its spelling is text."""

    text: str
    token: int | None


@dataclass(frozen=True)
class Marks:
    """The pair around a model's thoughts."""

    opening: Mark
    closing: Mark

    @property
    def tokens(self) -> frozenset[int]:
        return frozenset(mark.token for mark in (self.opening, self.closing) if mark.token is not None)

    @property
    def texts(self) -> tuple[Mark, ...]:
        """Those that are found in the text."""
        return tuple(mark for mark in (self.opening, self.closing) if mark.token is None)


class Splitter(Protocol):
    """Splits an answer's stream into kinds. A mark belongs to neither, and half a mark is never passed on.

    Attributes:
        thinking: what comes next, as far as can be told, is not the answer.
        over: the model has said that the answer is complete.
    """

    @property
    def thinking(self) -> bool: ...

    @property
    def over(self) -> bool: ...

    def is_mark(self, token: int) -> bool:
        """Whether this token would be a mark now."""

    def mark(self, token: int) -> list[Piece]:
        """Take a token that is a mark."""

    def push(self, text: str) -> list[Piece]:
        """Take text; returns what is certain."""

    def flush(self) -> list[Piece]:
        """What is left when nothing more comes."""


@lru_cache(maxsize=4)
def find_marks(tokenizer: Tokenizer) -> Marks | None:
    """The marks that the chat template speaks of, else those that the tokenizer has tokens for; None without any."""
    added = {token.content: token_id for token_id, token in tokenizer.backend.get_added_tokens_decoder().items()}
    template = tokenizer.template
    for text in (template, *added):
        for opening, closing in _pairs(text):
            if all(mark in added or mark in template for mark in (opening, closing)):
                return Marks(Mark(opening, added.get(opening)), Mark(closing, added.get(closing)))
    return None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Opening marks in `text`, in order, each with what would close it."""
    found = [
        (match.start(), match[0], closing.format(match[1]))
        for shape, closing in _SHAPES
        for match in shape.finditer(text)
    ]
    return ((opening, closing) for _, opening, closing in sorted(found))


class Thoughts:
    """What a model thinks, trimmed: no white space at either end, an empty line between two thoughts."""

    def __init__(self) -> None:
        self._gap = ""
        self._begun = False
        self.fresh = True

    def push(self, text: str) -> list[Piece]:
        """The part of it that is certain not to be the end's white space."""
        if self.fresh:
            text = text.lstrip()
        if not text:
            return []
        text = self._gap + text
        body = text.rstrip()
        self._gap = text[len(body) :]
        self.fresh, self._begun = False, True
        return [("reasoning", body)] if body else []

    def end(self) -> None:
        """A thought is over."""
        self._gap = "\n\n" if self._begun else ""
        self.fresh = True


class PlainSplitter:
    """For models that don't think: all is the answer."""

    thinking = False
    over = False

    def is_mark(self, token: int) -> bool:
        return False

    def mark(self, token: int) -> list[Piece]:
        return []

    def push(self, text: str) -> list[Piece]:
        return [("answer", text)]

    def flush(self) -> list[Piece]:
        return []


class MarkSplitter:
    """For models that think between two marks, before they answer.

    Once the answer has begun, marks in it are text: it may be about marks. White space right behind a closing mark
    is nobody's.

    Invariant: `_held` is text that may yet turn out to be a mark, or white space before one.
    """

    over = False

    def __init__(self, marks: Marks, *, thinking: bool = False, closed: bool = False) -> None:
        """`thinking`: the prompt has opened the thoughts; `closed`: it has closed them."""
        self._marks = marks
        self._state: Literal["before", "thinking", "answer"] = "thinking" if thinking else "before"
        self._after_mark = closed
        self._thoughts = Thoughts()
        self._held = ""

    @property
    def thinking(self) -> bool:
        return self._state == "thinking"

    def is_mark(self, token: int) -> bool:
        return self._state != "answer" and token in self._marks.tokens

    def mark(self, token: int) -> list[Piece]:
        held, self._held = self._held, ""
        opens = token == self._marks.opening.token
        if self._state == "before" and held.strip():
            return self._answer(held)
        pieces = self._thoughts.push(held) if self.thinking else []
        self._pass(opens)
        return pieces

    def push(self, text: str) -> list[Piece]:
        text, self._held = self._held + text, ""
        pieces: list[Piece] = []
        while self._state != "answer":
            step = self._before(text) if self._state == "before" else self._think(text)
            pieces += step[0]
            if step[1] is None:
                return pieces
            text = step[1]
        return [*pieces, ("answer", text)]

    def flush(self) -> list[Piece]:
        held, self._held = self._held, ""
        return self._thoughts.push(held) if self.thinking else self._answer(held)

    def _pass(self, opens: bool) -> None:
        """Step over a mark. A second opening mark, behind the prompt's own, says nothing new."""
        if opens:
            self._state = "thinking"
        else:
            self._state, self._after_mark = "before", True
            self._thoughts.end()

    def _answer(self, text: str) -> list[Piece]:
        self._state = "answer"
        return [("answer", text.lstrip() if self._after_mark else text)]

    def _before(self, text: str) -> tuple[list[Piece], str | None]:
        """Look for a mark where the answer would begin; the second value is the text behind what is decided."""
        begun = text.lstrip()
        for mark in self._marks.texts:
            if begun.startswith(mark.text):
                self._pass(mark is self._marks.opening)
                return [], begun[len(mark.text) :]
        if not begun or any(mark.text.startswith(begun) for mark in self._marks.texts):
            self._held = text
            return [], None
        self._state = "answer"
        return [], begun if self._after_mark else text

    def _think(self, text: str) -> tuple[list[Piece], str | None]:
        """Look for the end of a thought, and for an opening mark at its beginning."""
        begun = text.lstrip()
        if self._thoughts.fresh and self._marks.opening.token is None:
            opening = self._marks.opening.text
            if begun.startswith(opening):
                return [], begun[len(opening) :]
            if opening.startswith(begun):
                self._held = text
                return [], None
        closing = self._marks.closing
        at = text.find(closing.text) if closing.token is None else -1
        if at >= 0:
            pieces = self._thoughts.push(text[:at])
            self._pass(False)
            return pieces, text[at + len(closing.text) :]
        safe = len(text) - (_overlap(text, closing.text) if closing.token is None else 0)
        self._held = text[safe:]
        return self._thoughts.push(text[:safe]), None


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark` but isn't all of it."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-size:])), 0)


def mark_splitter(marks: Marks, tokenizer: Tokenizer, prompt: Sequence[int]) -> MarkSplitter:
    """A splitter for the answer to `prompt`, which may end behind an opening or a closing mark."""
    end = tokenizer.decode(prompt[-_PROMPT_END:], skip_special_tokens=False).rstrip()
    return MarkSplitter(marks, thinking=end.endswith(marks.opening.text), closed=end.endswith(marks.closing.text))
