"""The model's tokenizer and chat template: text to token ids and back.

Wraps transformers' fast tokenizers so that text of files and people can never turn into control tokens, while the
template's own text does. Knows nothing of chunks or of how a prompt is put together.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from jinja2.exceptions import TemplateError
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engine.errors import InvalidRequestError, UnsupportedModelError
from engine.types import Message

PLAIN_TEMPLATE = (
    "{{ opening }}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}### {{ 'User' if message.role == 'user' else 'Assistant' }}:\n{{ message.content }}\n\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""For models that bring no chat template, or one that a context can't be put into."""

_WHITESPACE = "".join(char for char in map(chr, range(0x3001)) if char.isspace() and char not in "\x1c\x1d\x1e\x1f")
"""What control tokens may swallow beside them: Unicode's white space, to which Python adds four separators."""


@dataclass(frozen=True)
class Span:
    """A stretch of a prompt.

    Attributes:
        text: what it says.
        control: True for text of the chat template, in which special tokens count; False for contents.
        ids: tokens to take as they are instead of tokenizing `text`.
    """

    text: str
    control: bool = False
    ids: tuple[int, ...] | None = None


class Place(Enum):
    """Where a run of ordinary text stands; SentencePiece-like tokenizers put a space before text at some of them."""

    START = auto()  # of the prompt
    AFTER_CONTROL = auto()  # right behind a control token
    CONTINUING = auto()  # behind other text


class Tokenizer:
    """One model's tokenizer; immutable, safe to use from several threads.

    *Control tokens* are all added tokens but runs of whitespace: besides those marked special also e.g.
    ``<tool_call>``, because a template gives them a meaning. transformers' ``split_special_tokens`` would leave the
    latter in, and switches a flag that all threads share; so ordinary text goes through a pipeline of its own that
    shares the vocabulary and lacks the control tokens.
    """

    def __init__(self, fast: PreTrainedTokenizerFast, eos_token_ids: Iterable[int] = ()) -> None:
        self._fast = fast
        self.backend: tokenizers.Tokenizer = fast.backend_tokenizer
        added = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._controls = {token.content: (token_id, token) for token_id, token in added.items() if _is_control(token)}
        self._control_names = {token_id: name for name, (token_id, _) in self._controls.items()}
        self._control_pattern = _any_of(self._controls)
        self._special_pattern = _any_of(name for name, (_, token) in self._controls.items() if token.special)
        self._pipelines = {place: _without_controls(self.backend, place) for place in Place}
        self._template: str | None = None if fast.chat_template else PLAIN_TEMPLATE
        self._declared_eos = frozenset(eos_token_ids)

    @classmethod
    def from_folder(cls, path: Path | str) -> Tokenizer:
        """Load the tokenizer of a model folder; nothing is fetched and no code of the folder is run.

        Raises:
            UnsupportedModelError: the folder has no tokenizer that the `tokenizers` library can run.
        """
        if not Path(path).is_dir():
            raise UnsupportedModelError(f"{path} is not a folder with a tokenizer")
        try:
            fast = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UnsupportedModelError(f"{path} has no usable tokenizer: {error}") from error
        if not isinstance(fast, PreTrainedTokenizerFast):
            raise UnsupportedModelError(f"{path} has only a slow tokenizer; a tokenizer.json is needed")
        return cls(fast, _declared_eos(Path(path)))

    def with_plain_template(self) -> Tokenizer:
        """The same tokenizer with a template of plain text headings instead of the model's own."""
        twin = copy.copy(self)
        twin.__dict__.pop("eos_token_ids", None)
        twin.__dict__.pop("has_system_role", None)
        twin._template = PLAIN_TEMPLATE
        return twin

    # -- text to tokens ----------------------------------------------------------------------------------------------

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Tokens of `text`.

        With `special`, as the opening of a prompt and with control tokens mapped: what the template's text needs.
        Without, as ordinary text that follows other text: no control token can come of it, whatever it says.
        """
        if special:
            return self.encode_spans([Span(text, control=True)], at_start=True)
        return self._encode_run(text, Place.CONTINUING)

    def encode_spans(self, spans: Sequence[Span], *, at_start: bool) -> list[int]:
        """Tokens of a prompt's stretch in which template text and contents alternate.

        Text between two control tokens is tokenized as one run, across the spans' borders: when no content holds the
        name of a control token, the result is what tokenizing the whole string at once gives.

        Args:
            spans: in prompt order.
            at_start: whether the stretch opens the prompt.
        """
        ids: list[int] = []
        place = Place.START if at_start else Place.CONTINUING
        for group in _split_at_verbatim(spans):
            if isinstance(group, tuple):
                ids.extend(group)
            else:
                ids.extend(self._encode_group(group, place))
            if ids:
                place = Place.CONTINUING
        return ids

    def _encode_group(self, spans: Sequence[Span], place: Place) -> Iterator[int]:
        text = "".join(span.text for span in spans)
        done = 0
        for start, end, token_id in self._find_controls(spans, text):
            yield from self._encode_run(text[done:start], place)
            yield token_id
            done, place = end, Place.AFTER_CONTROL
        yield from self._encode_run(text[done:], place)

    def _find_controls(self, spans: Sequence[Span], text: str) -> Iterator[tuple[int, int, int]]:
        """(start, end, id) of the control tokens in the template's part of `text`; ends include eaten whitespace."""
        begin, floor = 0, 0
        for span in spans:
            limit = begin + len(span.text)
            position = max(begin, floor)
            while span.control and (match := self._control_pattern.search(text, position, limit)):
                token_id, token = self._controls[match[0]]
                start, end = match.span()
                if token.lstrip:
                    start = floor + len(text[floor:start].rstrip(_WHITESPACE))
                if token.rstrip:
                    end = len(text) - len(text[end:].lstrip(_WHITESPACE))
                yield start, end, token_id
                position = floor = end
            begin = limit

    def _encode_run(self, text: str, place: Place) -> list[int]:
        if not text:
            return []
        encoding = self._pipelines[place].encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._control_names.keys().isdisjoint(ids):
            return ids
        return [part for at, token_id in enumerate(ids) for part in self._spelled(token_id, text, encoding.offsets[at])]

    def _spelled(self, token_id: int, text: str, offset: tuple[int, int]) -> list[int]:
        """`token_id`, or single characters if it is a control token that the vocabulary itself led to.

        Some models use a control token as their unknown token as well; that one stands for other text than its name.
        """
        covered = text[slice(*offset)]
        if self._control_names.get(token_id, "\0") not in covered:
            return [token_id]
        pipeline = self._pipelines[Place.CONTINUING]
        return [part for character in covered for part in pipeline.encode(character, add_special_tokens=False).ids]

    def replace_controls(self, text: str, replace: Callable[[str], str], *, only_special: bool = False) -> str:
        """`text` with every name of a control token (or only of those marked special) replaced."""
        pattern = self._special_pattern if only_special else self._control_pattern
        return pattern.sub(lambda match: replace(match[0]), text)

    # -- tokens to text ----------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, and ids beyond the vocabulary nothing."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """Every token that ends an answer.

        What generation_config.json, config.json and the tokenizer declare, and the token that the chat template puts
        behind an assistant's message (some models declare only their end of text).
        """
        declared = self._declared_eos
        if self._fast.eos_token_id is not None:
            declared |= {self._fast.eos_token_id}
        return declared | self._end_of_turn()

    def _end_of_turn(self) -> frozenset[int]:
        answer = "answerq7"
        turns = [("user", "one"), ("assistant", answer), ("user", "two")]
        try:
            text = self.render([Message(role=role, content=content) for role, content in turns])
        except InvalidRequestError:
            return frozenset()
        after = text.rpartition(answer)[2].lstrip()
        match = self._control_pattern.match(after)
        return frozenset({self._controls[match[0]][0]}) if match else frozenset()

    # -- the chat template -------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False, **options: Any) -> str:
        """The conversation as the model's chat template writes it; `options` are variables for the template.

        Raises:
            InvalidRequestError: the template refuses the conversation, e.g. for a role that it doesn't know.
        """
        conversation = [dict(message) for message in messages]
        if self._template is not None:
            options = {**options, "chat_template": self._template, "opening": self._opening}
        try:
            text = self._fast.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequestError(f"The model's chat template refuses this conversation: {error}") from error
        return str(text)

    @property
    def template(self) -> str:
        """The source of the chat template that is used."""
        templates = self._fast.chat_template if self._template is None else self._template
        return "\n".join(templates.values()) if isinstance(templates, dict) else str(templates)

    @cached_property
    def _opening(self) -> str:
        """The begin-of-text token, if the tokenizer puts it before plain text by itself."""
        opening = self.backend.encode("a").ids[:1]
        return str(self._fast.bos_token) if opening == [self._fast.bos_token_id] else ""

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template takes a system message and writes what it says."""
        text = "systemq7"
        try:
            rendered = self.render([Message(role="system", content=text), Message(role="user", content="one")])
        except InvalidRequestError:
            return False
        return text in rendered


def _is_control(token: AddedToken) -> bool:
    """Whitespace tokens are ordinary text: tokenizers for code have them for indentation."""
    return bool(token.special or not token.content.isspace())


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of `words`, as the tokenizer does; with no words it matches nothing."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def _split_at_verbatim(spans: Iterable[Span]) -> Iterator[list[Span] | tuple[int, ...]]:
    """Runs of spans to be tokenized together, and the verbatim ids between them."""
    group: list[Span] = []
    for span in spans:
        if span.ids is None:
            group.append(span)
            continue
        yield group
        yield span.ids
        group = []
    yield group


def _declared_eos(folder: Path) -> frozenset[int]:
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        declared = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        found.update([declared] if isinstance(declared, int) else declared or ())
    return frozenset(found)


# -- ordinary text: the tokenizer's pipeline without control tokens ----------------------------------------------------


def _without_controls(backend: tokenizers.Tokenizer, place: Place) -> tokenizers.Tokenizer:
    """A tokenizer over the same vocabulary (shared, not copied) in which only whitespace tokens are added tokens."""
    pipeline = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        pipeline.normalizer = _placed(backend.normalizer, place)
    if backend.pre_tokenizer is not None:
        pipeline.pre_tokenizer = _placed(backend.pre_tokenizer, place)
    _keep_whitespace_tokens(pipeline, backend)
    return pipeline


def _keep_whitespace_tokens(pipeline: tokenizers.Tokenizer, backend: tokenizers.Tokenizer) -> None:
    """Add the whitespace tokens under the ids they have in `backend`.

    Tokens that the vocabulary lacks get their ids in order of coming, so names that nobody can guess stand in for the
    control tokens among them.
    """
    added = sorted(backend.get_added_tokens_decoder().items())
    if all(_is_control(token) for _, token in added):
        return
    known = backend.get_vocab(with_added_tokens=False)
    for token_id, token in added:
        if not _is_control(token):
            pipeline.add_tokens([token])
        elif token.content not in known:
            pipeline.add_tokens([AddedToken(secrets.token_hex(16))])
        else:
            continue
        if not _is_control(token) and pipeline.token_to_id(token.content) != token_id:
            raise UnsupportedModelError(f"The ids of the tokenizer's added tokens have gaps, at {token.content!r}")


def _placed(component: Any, place: Place) -> Any:
    """A normalizer or pre-tokenizer that puts a space before the text only where one belongs."""
    state = json.loads(component.__getstate__())
    moved = _move(state, place)
    if moved == state:
        return component
    twin = copy.deepcopy(component)
    twin.__setstate__(json.dumps(moved).encode())
    return twin


def _move(state: dict[str, Any], place: Place) -> dict[str, Any]:
    """The serialized component for text at `place`, given the one for the start of a prompt."""
    if place is Place.START:
        return state
    match state["type"]:
        case "Sequence":
            key = "normalizers" if "normalizers" in state else "pretokenizers"
            return {**state, key: [_move(part, place) for part in state[key]]}
        case "Metaspace" if place is Place.CONTINUING or state["prepend_scheme"] == "first":
            return {**state, "prepend_scheme": "never"}
        case "Prepend" if place is Place.CONTINUING:
            return {"type": "Sequence", "normalizers": []}
        case "ByteLevel" if place is Place.CONTINUING and "add_prefix_space" in state:
            return {**state, "add_prefix_space": False}
    return state
