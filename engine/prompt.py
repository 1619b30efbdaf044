"""PromptBuilder: chat template, instructions, chunks and conversation -> the token ids of head, chunks and tail.

Each piece is tokenized on its own, so that its tokens depend on nothing before it; how a chunk is framed is in
`engine/chunk_frame.py`. Knows nothing of contexts or KV.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.chat_layout import Content, Part, lay_out, new_marker
from engine.chunk_frame import ChunkText, frame
from engine.config import DEFAULT_INSTRUCTIONS
from engine.errors import InvalidRequestError
from engine.tokenizer import Span, Tokenizer
from engine.types import Message

__all__ = ["DEFAULT_INSTRUCTIONS", "ChunkText", "PromptBuilder"]

_HEADS_KEPT = 64
Answers = Mapping[str, Sequence[int]]


class PromptBuilder:
    """Builds prompts for one model; safe to use from several threads.

    A composition is head + chunks + tail. The chunks stand in the system message behind the instructions; where the
    template has no system role (or puts the system message elsewhere than first), in the first user message before
    what the user says. Head and tail are the same whether there are chunks or not, so that toggling the last chunk
    keeps the head's KV.

    Within head and tail, text between control tokens is tokenized as one run across template text and contents, as
    the model saw it in training; but only the template's text can yield control tokens (see `Tokenizer`). Pieces
    meet at line ends, where tokenizers part words anyway.
    """

    def __init__(self, tokenizer: Tokenizer, instructions: str = DEFAULT_INSTRUCTIONS) -> None:
        self._model_tokenizer = tokenizer
        self._instructions = instructions
        self._chunks = new_marker()
        self._heads: dict[str, tuple[int, ...]] = {}
        self._tokenizer, self._in_system = self._choose_place()

    def _choose_place(self) -> tuple[Tokenizer, bool]:
        """The tokenizer, if need be with a plain template, and whether chunks go into a system message."""
        own, plain = self._model_tokenizer, self._model_tokenizer.with_plain_template()
        return next(choice for choice in ((own, True), (own, False), (plain, True)) if self._fits(*choice))

    def _fits(self, tokenizer: Tokenizer, in_system: bool) -> bool:
        """Whether the template shows chunks once, before the conversation, and the same before them however it goes."""
        said = ("oneq7", "twoq7", "threeq7")
        turns = [
            Message(role=role, content=text) for role, text in zip(("user", "assistant", "user"), said, strict=True)
        ]
        openings = []
        for count in (1, 3):
            patterns, contents = self._composition_patterns("instructions", turns[:count], in_system)
            try:
                opening, *rest = _text(lay_out(tokenizer, patterns, contents)).split(self._chunks)
            except InvalidRequestError:
                return False
            if len(rest) != 1 or not all(text in rest[0] for text in said[:count]):
                return False
            openings.append(opening)
        return openings[0] == openings[1]

    # -- pieces ------------------------------------------------------------------------------------------------------

    def head(self, instructions: str | None = None) -> tuple[int, ...]:
        """What stands before the first chunk; depends on the instructions alone. None takes the builder's own."""
        text = self._instructions if instructions is None else instructions
        ids = self._heads.get(text)
        if ids is None:
            if len(self._heads) >= _HEADS_KEPT:
                self._heads.clear()
            ids = self._heads[text] = self._encode(self._head_parts(text), at_start=True)
        return ids

    def head_text(self, instructions: str | None = None) -> str:
        """The exact text of `head`."""
        return _text(self._head_parts(instructions))

    def chunk(self, chunk: ChunkText) -> tuple[int, ...]:
        """A chunk in its frame; whatever its text says, it holds no control token."""
        return tuple(self._tokenizer.encode(frame(chunk), special=False))

    def chunk_text(self, chunk: ChunkText) -> str:
        """The exact text of `chunk`."""
        return frame(chunk)

    def tail(self, messages: Sequence[Message], answers: Answers | None = None) -> tuple[int, ...]:
        """What follows the last chunk: the conversation up to where the answer begins.

        Args:
            messages: maybe a system message, whose text belongs to the head (give it to `head`) and is left out here;
                then user and assistant in turn, the user first and last.
            answers: by the text of an earlier answer the token ids it was generated as. They are taken as they are,
                so that their KV can be used again; tokenizing the text anew might give others.

        Raises:
            InvalidRequestError: messages are not such a conversation, or the template refuses them.
        """
        parts, said = self._tail_parts(messages)
        return self._encode(parts, at_start=False, said=said, answers=answers)

    def tail_text(self, messages: Sequence[Message]) -> str:
        """The exact text of `tail`."""
        return _text(self._tail_parts(messages)[0])

    def plain(self, messages: Sequence[Message], answers: Answers | None = None) -> tuple[int, ...]:
        """A whole prompt without instructions or chunks of its own: the conversation as the template has it.

        The same ids as transformers' `apply_chat_template` gives, unless a content holds names of control tokens.
        Messages, answers and errors as for `tail`; a system message is part of it (of the first user message where
        the template has no system role).
        """
        system, turns = check_messages(messages)
        tokenizer = self._model_tokenizer
        if system is not None and tokenizer.has_system_role:
            turns = [Message(role="system", content=system), *turns]
        elif system is not None:
            turns = [Message(role="user", content=f"{system}\n\n{turns[0]['content']}"), *turns[1:]]
        patterns, contents = _as_patterns(turns)
        parts = lay_out(tokenizer, patterns, contents)
        return self._encode(parts, at_start=True, said=contents, answers=answers)

    # -- layout ------------------------------------------------------------------------------------------------------

    def _head_parts(self, instructions: str | None) -> list[Part]:
        text = self._instructions if instructions is None else instructions
        patterns, contents = self._composition_patterns(text, [Message(role="user", content="x")], self._in_system)
        return self._cut(lay_out(self._tokenizer, patterns, contents))[0]

    def _tail_parts(self, messages: Sequence[Message]) -> tuple[list[Part], dict[str, Content]]:
        _, turns = check_messages(messages)
        patterns, contents = self._composition_patterns(self._instructions, turns, self._in_system)
        return self._cut(lay_out(self._tokenizer, patterns, contents))[1], contents

    def _composition_patterns(
        self, instructions: str, turns: Sequence[Message], in_system: bool
    ) -> tuple[list[Message], dict[str, Content]]:
        """Messages with markers in place of their contents, of the instructions and of the chunks."""
        patterns, contents = _as_patterns(turns)
        opening = self._chunks
        if instructions.strip():
            marker = new_marker()
            contents[marker] = Content(instructions)
            opening = f"{marker}\n{self._chunks}"
        if in_system:
            return [Message(role="system", content=opening), *patterns], contents
        first = Message(role="user", content=opening + patterns[0]["content"])
        return [first, *patterns[1:]], contents

    def _cut(self, parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
        """The parts before and behind the chunks' marker.

        A template that drops the marker in some conversations has left out the system message: all of it is tail.
        """
        for index, part in enumerate(parts):
            before, found, behind = part.text.partition(self._chunks)
            if found:
                rest = [replace(part, text=behind), *parts[index + 1 :]]
                return [*parts[:index], replace(part, text=before)], [self._without_marker(part) for part in rest]
        return [], list(parts)

    def _without_marker(self, part: Part) -> Part:
        return replace(part, text=part.text.replace(self._chunks, ""))

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _encode(
        self,
        parts: Sequence[Part],
        *,
        at_start: bool,
        said: Mapping[str, Content] | None = None,
        answers: Answers | None = None,
    ) -> tuple[int, ...]:
        spans = [Span(part.text, part.control, self._generated(part, said or {}, answers or {})) for part in parts]
        return tuple(self._tokenizer.encode_spans(spans, at_start=at_start))

    def _generated(self, part: Part, said: Mapping[str, Content], answers: Answers) -> tuple[int, ...] | None:
        """The ids an earlier answer was generated as, if the part shows all of that answer and they say the same."""
        content = said.get(part.marker or "")
        ids = answers.get(content.text) if content and content.by_model else None
        if content is None or ids is None or part.text.strip() != content.text.strip():
            return None
        return tuple(ids) if self._tokenizer.decode(ids) == content.text else None


def check_messages(messages: Sequence[Message]) -> tuple[str | None, list[Message]]:
    """The system message's text, if there is one, and the turns.

    Raises:
        InvalidRequestError: anything but user and assistant in turn, beginning and ending with the user.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequestError("messages must be a list of at least one message.")
    for index, message in enumerate(messages):
        _check_message(message, index)
    has_system = messages[0]["role"] == "system"
    turns = list(messages[1:] if has_system else messages)
    for index, message in enumerate(turns):
        expected = "assistant" if index % 2 else "user"
        if message["role"] != expected:
            raise InvalidRequestError(
                f"messages[{index + has_system}] must have the role {expected!r}, not {message['role']!r}: "
                "after an optional system message, user and assistant take turns."
            )
    if not turns or turns[-1]["role"] != "user":
        raise InvalidRequestError("The last message must be the user's.")
    return (messages[0]["content"] if has_system else None), turns


def _check_message(message: Any, index: int) -> None:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(f"messages[{index}] must be an object with role and content.")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise InvalidRequestError(f"messages[{index}].{key} must be a string.")
    if message["role"] not in ("system", "user", "assistant"):
        raise InvalidRequestError(
            f"messages[{index}].role must be 'system', 'user' or 'assistant', not {message['role']!r}."
        )


def _as_patterns(messages: Sequence[Message]) -> tuple[list[Message], dict[str, Content]]:
    """The messages with a marker for each content, and what the markers stand for."""
    contents = {new_marker(): Content(turn["content"], by_model=turn["role"] == "assistant") for turn in messages}
    patterns = [Message(role=turn["role"], content=marker) for turn, marker in zip(messages, contents, strict=True)]
    return patterns, contents


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts)
