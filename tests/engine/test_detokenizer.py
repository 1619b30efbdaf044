"""IncrementalDetokenizer and StopChecker: deltas that add up, whole characters, and stop strings that never show."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.runtime.detokenizer import IncrementalDetokenizer
from engine.runtime.stop_strings import StopChecker
from engine.tokenizer import Tokenizer
from tests.engine.test_tokenizer import REAL, real, tiny
from tests.tiny_tokenizers import KINDS

fewer = settings(max_examples=40)  # for every kind of tokenizer

pieces = ["🙂", "👩‍👩‍👧", "e\u0301", "文字", "नमस्ते", "</s>", "<think>", " ", "  ", "\n", "\ufffd", "the ", "\x00", "ﷺ"]
texts = st.lists(st.one_of(st.sampled_from(pieces), st.text(max_size=6))).map("".join)


def deltas(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@fewer
@given(text=texts, special=st.booleans())
@example(text="  two leading spaces, 🙂🙂 and 文", special=False)
def test_deltas_of_a_text_add_up_to_it(kind: str, text: str, special: bool) -> None:
    tokenizer = tiny(kind)
    ids = tokenizer.encode(text, special=special)
    assert "".join(deltas(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@fewer
@given(data=st.data())
def test_deltas_of_any_tokens_add_up(kind: str, data: st.DataObject) -> None:
    """Also of tokens that are no UTF-8 together, or lie beyond the vocabulary."""
    tokenizer = tiny(kind)
    size = tokenizer.backend.get_vocab_size()
    ids = data.draw(st.lists(st.integers(0, size + 2), max_size=30))
    assert "".join(deltas(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["sentencepiece, prepended", "sentencepiece, first"])
@given(runs=st.lists(st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(["▁", "▁the", "e", "\n\n", "</s>"]))))
@example(runs=["▁", "▁the"])
@example(runs=["🙂".encode() + b"\xff", "e"])
def test_runs_of_byte_tokens_add_up(kind: str, runs: list[bytes | str]) -> None:
    tokenizer = tiny(kind)
    names = [name for run in runs for name in ([run] if isinstance(run, str) else [f"<0x{byte:02X}>" for byte in run])]
    ids = [token_id for name in names if (token_id := tokenizer.backend.token_to_id(name)) is not None]
    assert len(ids) == len(names)
    assert "".join(deltas(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@fewer
@given(text=texts.filter(lambda text: "\ufffd" not in text))
def test_no_delta_holds_half_a_character(kind: str, text: str) -> None:
    tokenizer = tiny(kind)
    assert "\ufffd" not in "".join(deltas(tokenizer, tokenizer.encode(text, special=False)))


def test_text_comes_as_soon_as_it_is_certain() -> None:
    tokenizer = tiny("byte-level")
    word, smile = tokenizer.encode("the", special=False), tokenizer.encode("🙂", special=False)
    assert len(smile) == 4
    *first, last = deltas(tokenizer, word + smile)
    assert last == ""
    assert first[-4:] == ["", "", "", "🙂"]
    assert "".join(first[: len(word)]) == "the"


def test_an_unfinished_character_comes_at_the_end() -> None:
    for kind in ("byte-level", "sentencepiece, first"):
        tokenizer = tiny(kind)
        ids = tokenizer.encode("a🙂", special=False)[:-1]
        *first, last = deltas(tokenizer, ids)
        assert "".join(first) == "a"
        assert last == tokenizer.decode(ids)[1:] != ""


@pytest.mark.parametrize("name", REAL)
def test_deltas_of_real_tokenizers_add_up(name: str) -> None:
    tokenizer = real(name)
    size = tokenizer.backend.get_vocab_size()

    @given(text=texts, ids=st.lists(st.integers(0, size - 1), max_size=30))
    def check(text: str, ids: list[int]) -> None:
        ids = [*tokenizer.encode(text, special=False), *ids]
        assert "".join(deltas(tokenizer, ids)) == tokenizer.decode(ids)

    check()


# -- stop strings ----------------------------------------------------------------------------------------------------

stops = st.lists(st.text("ab🙂", min_size=1, max_size=4), max_size=4).map(tuple)


def naive_stop(text: str, stop: tuple[str, ...]) -> str | None:
    """Text before the stop string that is complete first, of several the longest; None if there is none."""
    for end in range(len(text) + 1):
        found = [string for string in stop if text[:end].endswith(string)]
        if found:
            return text[: end - max(map(len, found))]
    return None


def naive_held(text: str, stop: tuple[str, ...]) -> str:
    """The longest end of the text that begins a stop string."""
    starts = [start for start in range(len(text)) if any(string.startswith(text[start:]) for string in stop)]
    return text[min(starts) :] if starts else ""


@given(parts=st.lists(st.text("ab🙂c", max_size=4)), stop=stops)
@example(parts=["xabab", "c"], stop=("ababc", "bc"))
@example(parts=["aab"], stop=("ab",))
@example(parts=["ab", "a"], stop=("abb", "b"))
def test_stop_strings_are_found_and_nothing_else_is_lost(parts: list[str], stop: tuple[str, ...]) -> None:
    checker = StopChecker(stop)
    text = emitted = ""
    for part in parts:
        text += part
        delta, stopped = checker.push(part)
        emitted += delta
        expected = naive_stop(text, stop)
        assert stopped == (expected is not None)
        if expected is not None:
            assert emitted == expected
            assert checker.push("more") == ("", True)
            assert checker.flush() == ""
            return
        assert emitted == text.removesuffix(naive_held(text, stop))
    assert emitted + checker.flush() == text


def test_without_stop_strings_text_passes_at_once() -> None:
    assert StopChecker(()).push("anything") == ("anything", False)
