"""A context that is kept for a server without any: what is claimed of it holds after any sequence of changes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ctx_lsp.engines.context_book import ContextBook
from ctx_lsp.engines.openai_prompt import common_length
from ctx_lsp.engines.token_counter import TokenCounter
from engine.errors import ContextFullError
from engine.types import Message

SOURCES = st.sampled_from(["a.py", "b.py", "c.py", "d.md"])
TEXTS = st.sampled_from(["one\n", "one\ntwo\n", "three", "four\n" * 5, "five\nsix"])
QUESTION = Message(role="user", content="why?")


class Book(RuleBasedStateMachine):
    """`active` has what must be shown, by source, as the rules have left it."""

    @initialize(order=st.sampled_from(["recency", "fixed"]))
    def begin(self, order: str) -> None:
        self.book = ContextBook(TokenCounter(lambda text: len(text.split())), 10_000)
        self.book.configure("Be brief.", order)  # type: ignore[arg-type]
        self.texts: dict[str, str] = {}

    @rule(source=SOURCES, text=TEXTS)
    def add(self, source: str, text: str) -> None:
        self.book.add(text, source)
        self.texts[source] = text

    @rule(source=SOURCES)
    def remove(self, source: str) -> None:
        self.book.remove_source(source)
        self.texts.pop(source, None)

    @rule(source=SOURCES, active=st.booleans())
    def switch(self, source: str, active: bool) -> None:
        if source in self.texts:
            assert [chunk.active for chunk in self.book.set_active([source], active)] == [active]

    @rule(source=SOURCES, pinned=st.booleans())
    def pin(self, source: str, pinned: bool) -> None:
        if source in self.texts:
            assert [chunk.pinned for chunk in self.book.set_pinned([source], pinned)] == [pinned]

    @rule(source=SOURCES, position=st.integers(-1, 4))
    def move(self, source: str, position: int) -> None:
        if source in self.texts:
            self.book.move(source, position)

    @rule(first=SOURCES, second=SOURCES)
    def compose(self, first: str, second: str) -> None:
        if first in self.texts and second in self.texts:
            self.book.compose([first, second], "both")

    @rule(text=st.sampled_from(["An answer.", "Another."]))
    def ask(self, text: str) -> None:
        prompt = self.book.prompt([QUESTION])
        self.book.saw(prompt, text)
        assert sum(self.book.reused(prompt)) == prompt.tokens, "all of what was just computed is warm"
        assert self.book.keep_answer(text)

    @rule()
    def break_off(self) -> None:
        before = self.book.reused(self.book.prompt([QUESTION]))
        self.book.broke_off(self.book.prompt([QUESTION]))
        assert self.book.reused(self.book.prompt([QUESTION])) == before, "nothing more and nothing less is sure"

    @invariant()
    def figures_add_up(self) -> None:
        state, plan = self.book.describe(), self.book.plan(self.book.prompt([QUESTION]), None)
        assert plan.reused + plan.prefill == plan.tokens
        assert all(part.reused + part.prefill == part.tokens for part in plan.chunks)
        assert sum(part.tokens for part in plan.chunks) == state.active_tokens
        assert all(0 <= chunk.warm_tokens <= chunk.tokens for chunk in state.chunks)
        warm = {part.hash: part.reused for part in plan.chunks}
        plain = [chunk for chunk in state.chunks if chunk.active and not chunk.parts]
        assert {chunk.hash: chunk.warm_tokens for chunk in plain}.items() <= warm.items()

    @invariant()
    def the_prompt_shows_what_is_active_once_and_in_order(self) -> None:
        state, prompt = self.book.describe(), self.book.prompt([QUESTION])
        shown = [piece.chunk.hash for piece in prompt.pieces if piece.chunk is not None]
        active = dict.fromkeys(
            hash for chunk in state.chunks if chunk.active for hash in (chunk.parts or (chunk.hash,))
        )
        assert shown == list(active)
        assert prompt.messages[0]["content"] == "Be brief.\n" + "".join(
            piece.text for piece in prompt.pieces if piece.chunk is not None
        )
        assert {source: self.book.text(source) for source in self.texts} == self.texts


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@given(st.text("ab", max_size=20), st.text("ab", max_size=20))
def test_what_two_texts_begin_with(one: str, other: str) -> None:
    assert common_length(one, other) == len(os.path.commonprefix([one, other]))  # noqa: RUF071


def test_estimates_learn() -> None:
    counter = TokenCounter(None)
    guess = counter.count("x" * 3000)
    counter.learn("x" * 3000, 600)
    assert (guess, counter.count("x" * 3000), counter.estimated) == (1000, 600, True)
    counter.learn("short", 4)
    assert counter.count("x" * 3000) == 600, "a short prompt tells nothing"


def test_what_a_server_counted_is_not_asked_again() -> None:
    asked: list[str] = []
    counter = TokenCounter(lambda text: asked.append(text) or 7)  # type: ignore[func-returns-value]
    assert [counter.count("same") for _ in range(3)] == [7, 7, 7]
    assert asked == ["same"]


def test_a_prompt_that_is_known_to_be_too_long_is_refused() -> None:
    book = ContextBook(TokenCounter(lambda text: len(text.split())), 20)
    book.configure(None, "recency")
    with pytest.raises(ContextFullError) as caught:
        book.plan(book.prompt([Message(role="user", content="word " * 30)]), None)
    assert caught.value.data["limit"] == 20
