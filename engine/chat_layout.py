"""What of a rendered conversation is the chat template's text and what is content.

A template is a program that may trim, drop or rewrite what it is given, so nothing is assumed of it: the conversation
is rendered twice, with the contents and with markers in their place, and the two are aligned. Knows nothing of chunks
or tokens.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from engine.tokenizer import Tokenizer
from engine.types import Message


@dataclass(frozen=True)
class Part:
    """A stretch of a rendered conversation.

    Attributes:
        text: as rendered.
        control: it is the template's text, in which special tokens count.
        marker: of the content it comes from; None for the template's text.
    """

    text: str
    control: bool
    marker: str | None = None


@dataclass(frozen=True)
class Content:
    """What is put in a marker's place; `by_model` for what an assistant said."""

    text: str
    by_model: bool = False


# one pattern for all markers there will ever be, since compiling one takes longer than to split by it; what only looks
# like one may overlap one that is
_MARKERS = re.compile("(?=(q[0-9a-f]{24}q))")


def new_marker() -> str:
    """A word that no text holds by chance or by guessing, and that templates pass on as it is."""
    return f"q{secrets.token_hex(12)}q"


def lay_out(tokenizer: Tokenizer, patterns: Sequence[Message], contents: Mapping[str, Content]) -> list[Part]:
    """The conversation as the template writes it, generation prompt included, in parts.

    Args:
        patterns: messages whose content holds markers.
        contents: what each marker stands for, non-empty. Markers that are not named here stay in the text.

    Joined, the parts' texts are exactly what rendering the contents gives. Where the template lost, doubled or mixed
    contents, so that they can't be told apart from it, the result is one part of control text, but for the names of
    control tokens that contents held.

    Raises:
        InvalidRequestError: the template refuses the conversation.
    """
    shield = _Shield(tokenizer)
    texts = {marker: shield.cover(content) for marker, content in contents.items()}
    filled = [Message(role=pattern["role"], content=_fill(pattern["content"], texts)) for pattern in patterns]
    rendered = tokenizer.render(filled, add_generation_prompt=True)
    marked = tokenizer.render(patterns, add_generation_prompt=True)
    parts = _align(rendered, marked, texts) or [Part(rendered, control=True)]
    return [bared for part in parts for bared in shield.uncover(part)]


@dataclass
class _Shield:
    """Replaces the names of control tokens in contents by harmless words while templates work on them.

    Of what a model said only the special ones: templates look for words such as ``</think>`` there.
    """

    tokenizer: Tokenizer
    words: dict[str, str] = field(default_factory=dict)

    def cover(self, content: Content) -> str:
        return self.tokenizer.replace_controls(content.text, self._word, only_special=content.by_model)

    def _word(self, name: str) -> str:
        word = new_marker()
        self.words[word] = name
        return word

    def uncover(self, part: Part) -> Iterator[Part]:
        """The part with the names back in it; names within control text become parts of ordinary text."""
        if not self.words:
            yield part
        elif not part.control:
            yield Part(_fill(part.text, self.words), part.control, part.marker)
        else:
            for position, text in enumerate(_split(part.text, self.words)):
                yield Part(self.words[text], control=False) if position % 2 else Part(text, control=True)


def _align(rendered: str, marked: str, texts: Mapping[str, str]) -> list[Part] | None:
    """`rendered` in parts, guided by `marked`; None if the two don't agree."""
    pieces = _split(marked, texts)
    markers = pieces[1::2]
    if sorted(markers) != sorted(texts) or not rendered.startswith(pieces[0]):
        return None
    parts = [Part(pieces[0], control=True)]
    at = len(pieces[0])
    for marker, after in zip(markers, pieces[2::2], strict=True):
        end = _content_end(rendered, at, texts[marker], after)
        if end is None:
            return None
        parts += [Part(rendered[at:end], control=False, marker=marker), Part(after, control=True)]
        at = end + len(after)
    return parts if at == len(rendered) else None


def _content_end(rendered: str, at: int, content: str, after: str) -> int | None:
    """Where the content that begins at `at` ends: whole, or trimmed or rewritten up to the template's next text."""
    if rendered.startswith(content + after, at):
        return at + len(content)
    end = rendered.find(after, at) if after else -1
    return end if end >= 0 else None


def _split(text: str, words: Mapping[str, str]) -> list[str]:
    """Text and words in turn, text first and last; `words` are markers."""
    parts, at = list[str](), 0
    for match in _MARKERS.finditer(text):
        word = match[1]
        if word in words and match.start() >= at:
            parts += [text[at : match.start()], word]
            at = match.end(1)
    return [*parts, text[at:]]


def _fill(text: str, words: Mapping[str, str]) -> str:
    return "".join(words[piece] if position % 2 else piece for position, piece in enumerate(_split(text, words)))
