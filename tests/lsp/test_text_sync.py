"""The server's text equals the client's after any sequence of edits, in every position encoding."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol import types

from ctx_lsp.client.text_sync import apply_changes, offset_at, units

CODECS = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}

# Line ends of LSP, and characters that only Python's str.splitlines takes for line ends.
texts = st.lists(
    st.sampled_from(["a", "bc", "é", "€", "😀", "\n", "\r\n", "\r", "\x0c", "\x0b", "\u2028", "\x85"])
).map("".join)
encodings = st.sampled_from(sorted(CODECS))


def position_of(text: str, index: int, encoding: str) -> types.Position:
    """Where a client says that `index` is: the plain way, by encoding what stands before it."""
    codec, width = CODECS[encoding]
    before = re.split("\r\n|\r|\n", text[:index])
    return types.Position(len(before) - 1, len(before[-1].encode(codec)) // width)


def boundaries(text: str) -> list[int]:
    """Indices at which an editor could edit: not between CR and LF."""
    return [index for index in range(len(text) + 1) if text[max(0, index - 1) : index + 1] != "\r\n"]


@given(data=st.data(), text=texts, encoding=encodings)
def test_incremental_edits_are_applied_as_the_client_applies_them(
    data: st.DataObject, text: str, encoding: str
) -> None:
    changes: list[types.TextDocumentContentChangeEvent] = []
    wanted = text
    for _ in range(data.draw(st.integers(0, 5))):
        ends = st.sampled_from(boundaries(wanted))
        start, end = sorted((data.draw(ends), data.draw(ends)))
        new = data.draw(texts)
        places = (position_of(wanted, start, encoding), position_of(wanted, end, encoding))
        changes.append(types.TextDocumentContentChangePartial(types.Range(*places), new))
        wanted = wanted[:start] + new + wanted[end:]
    assert apply_changes(text, changes, encoding) == wanted


@given(text=texts, encoding=encodings)
def test_units_count_what_the_codec_writes(text: str, encoding: str) -> None:
    codec, width = CODECS[encoding]
    assert units(text, encoding) == len(text.encode(codec)) // width


@given(text=texts, line=st.integers(0, 50), character=st.integers(0, 50), encoding=encodings)
def test_any_position_is_somewhere(text: str, line: int, character: int, encoding: str) -> None:
    assert 0 <= offset_at(text, types.Position(line, character), encoding) <= len(text)


@pytest.mark.parametrize(
    ("position", "offset"),
    [
        ((0, 0), 0),
        ((0, 99), 3),  # behind the end of the line: its end, before the line end
        ((1, 0), 5),
        ((2, 0), 8),  # the empty line behind the last line end
        ((9, 0), 8),  # behind the last line: the end
    ],
)
def test_positions_out_of_bounds(position: tuple[int, int], offset: int) -> None:
    assert offset_at("abc\r\nde\n", types.Position(*position), "utf-16") == offset


def test_a_position_inside_a_character_is_before_it() -> None:
    assert offset_at("a😀b", types.Position(0, 2), "utf-16") == 1
    assert offset_at("a😀b", types.Position(0, 3), "utf-8") == 1


def test_full_and_incremental_changes_mix() -> None:
    whole = types.TextDocumentContentChangeWholeDocument("new\ntext")
    place = types.Range(types.Position(1, 0), types.Position(1, 4))
    part = types.TextDocumentContentChangePartial(place, "lines")
    assert apply_changes("old", [whole, part], "utf-16") == "new\nlines"


def test_a_range_that_runs_backwards_deletes_nothing() -> None:
    place = types.Range(types.Position(0, 3), types.Position(0, 1))
    assert apply_changes("abcd", [types.TextDocumentContentChangePartial(place, "x")], "utf-16") == "abcxd"
