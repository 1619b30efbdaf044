"""Streamed Markdown: what it looks like, and that it doesn't depend on how the text was cut into pieces."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.protocol import Skipped
from ctx_lsp.terminal.render import BOLD, CYAN, DIM, RESET, MarkdownStream, ThoughtStream, skipped_lines

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
MARKS = st.sampled_from(
    ["\n", "\n\n", "`", "**", "*", "# ", "- ", "> ", "1. ", "```", "```python\n", "\n```\n", " ", "漢字"]
)
MARKDOWN = st.lists(MARKS | st.text("abc xyz(){}=\"'#", max_size=12), max_size=30).map("".join)


def render(text: str, *, width: int = 80, cuts: tuple[int, ...] = ()) -> str:
    stream = MarkdownStream(width)
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    return "".join(stream.feed(piece) for piece in pieces) + stream.finish()


def seen(output: str) -> str:
    """What a terminal shows in the end, without colors: text after a carriage return covers what was there."""
    lines = []
    for line in _STYLE.sub("", output).split("\n"):
        row = ""
        for part in line.split("\r"):
            row = part + row[len(part) :]
        lines.append(row)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("plain words", "plain words\n"),
        ("a `name` here", f"a {CYAN}name{RESET} here\n"),
        ("**bold** text", f"{BOLD}bold{RESET} text\n"),
        ("## Title", f"{BOLD}Title{RESET}\n"),
        ("- item", f"{CYAN}• {RESET}item\n"),
        ("> said", f"{DIM}│ {RESET}{DIM}said{RESET}\n"),
        ("```\nx\n```", f"{DIM}```{RESET}\nx\n{DIM}```{RESET}\n"),
        ("\n\nstarts late", "starts late\n"),
    ],
)
def test_styles(markdown, shown):
    assert render(markdown) == shown


@pytest.mark.parametrize(
    "text", ["f(*args, **kwargs)", "2 ** 3 * 4", "an `open tick", "__init__", "#tag", "-x", "a*b*c"]
)
def test_what_only_resembles_a_mark_stays_as_it_is(text):
    assert render(text) == text + "\n"


def test_prose_is_wrapped_at_words_under_its_indent():
    assert seen(render("- one two three four five six", width=20)) == "• one two three four\n  five six\n"
    assert seen(render("12. one two three four five six", width=20)) == "12. one two three\n    four five six\n"


def test_text_without_spaces_is_wrapped_where_the_line_ends():
    assert seen(render("漢" * 15, width=20)) == "漢" * 10 + "\n" + "漢" * 5 + "\n"


def test_code_is_colored_and_keeps_its_text():
    code = 'def f(x: int) -> str:\n    """doc\n    string"""\n\treturn "a" * x  # note\n'
    out = render(f"```python\n{code}```\n", cuts=tuple(range(0, 200, 3)))
    assert seen(out) == f"```python\n{code}```\n"
    assert _STYLE.search(out.split("\n")[1])


def test_code_wider_than_the_terminal_is_not_written_twice():
    line = "x = " + "1 + " * 30 + "1"
    out = render(f"```python\n{line}\n```\n", width=40, cuts=(12, 30, 60))
    assert "\r" not in out
    assert seen(out) == f"```python\n{line}\n```\n"


def test_words_of_prose_come_as_soon_as_they_are_whole():
    stream = MarkdownStream(80)
    assert stream.feed("The retry lim") == "The retry"
    assert stream.feed("it is") == " limit"


def test_code_comes_character_by_character():
    stream = MarkdownStream(80)
    stream.feed("```python\n")
    assert [stream.feed(piece) for piece in ("x ", "=", " 1")] == ["x ", "=", " 1"]


def test_escape_sequences_of_an_answer_never_reach_the_terminal():
    assert render("a\x1b[2Jb\x9b1mc\rd\x07e") == "a[2Jb1mcde\n"


@given(text=MARKDOWN, cuts=st.lists(st.integers(0, 200), max_size=40).map(tuple))
def test_the_pieces_do_not_matter(text, cuts):
    assert seen(render(text, cuts=cuts)) == seen(render(text))


@given(text=MARKDOWN, cuts=st.lists(st.integers(0, 200), max_size=40).map(tuple))
def test_no_letter_is_lost_and_none_is_added(text, cuts):
    letters = "abcxyz漢字(){}=\"'"
    shown = seen(render(text, width=30, cuts=cuts))
    assert [c for c in shown if c in letters] == [c for c in text if c in letters]


def think(text, *, style=DIM, width=80, cuts=()):
    stream = ThoughtStream(width, style)
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return "".join(stream.feed(text[start:end]) for start, end in pairwise(edges)) + stream.finish()


def test_thoughts_stand_behind_a_dim_bar():
    bar = f"{DIM}│ {RESET}"
    assert think("So.\n\nHm") == f"{bar}{DIM}So.{RESET}\n{bar}\n{bar}{DIM}Hm{RESET}\n\n"
    assert seen(think("one two three four five", width=20)) == "│ one two three four\n│ five\n\n"
    assert think("") == ""


def test_thoughts_without_styles_are_as_they_came():
    assert think("a `name`\n\n**b**", style="") == "│ a `name`\n│ \n│ **b**\n\n"
    assert think("a\x1b[2Jb", style="") == "│ a[2Jb\n\n"


@given(text=MARKDOWN, cuts=st.lists(st.integers(0, 200), max_size=40).map(tuple), style=st.sampled_from([DIM, ""]))
def test_the_pieces_of_thoughts_do_not_matter(text, cuts, style):
    assert seen(think(text, style=style, cuts=cuts)) == seen(think(text, style=style))


def test_a_long_list_of_skipped_files_is_cut():
    skipped = [Skipped(path=f"{n}.bin", reason="not text") for n in range(7)]
    assert skipped_lines(skipped)[:1] == ["not loaded: 0.bin (not text)"]
    assert skipped_lines(skipped)[5:] == ["not loaded: 2 more"]
