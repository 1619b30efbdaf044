"""What a model thinks: found by its marks, however they are written and however the stream is cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from engine.runtime.answer_text import AnswerText
from engine.runtime.channels import ChannelSplitter, find_channels
from engine.runtime.reasoning import Mark, Marks, MarkSplitter, Piece, Splitter, find_marks
from engine.tokenizer import Tokenizer
from tests.engine.test_tokenizer import tiny
from tests.tiny_models import CHATML, make_tokenizer
from tests.tiny_tokenizers import KINDS

PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|constrain|>")


@dataclass
class Said:
    """What came out of a splitter or an answer, by kind."""

    answer: str = ""
    reasoning: str = ""

    def take(self, pieces: Iterable[Piece]) -> None:
        for kind, text in pieces:
            self.answer += text if kind == "answer" else ""
            self.reasoning += text if kind == "reasoning" else ""


def tokenizer_with(marks: Iterable[str] = (), *, special: bool = False, template: str = CHATML) -> Tokenizer:
    """A byte-level tokenizer in which `marks` are tokens."""
    fast: PreTrainedTokenizerFast = make_tokenizer()
    fast.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    fast.chat_template = template
    return Tokenizer(fast)


def tokens_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """`text` as the model generates it: names of control tokens become those tokens."""
    return tokenizer.encode(text, special=True)


def read(tokenizer: Tokenizer, text: str, prompt: str = "", stop: tuple[str, ...] = ()) -> tuple[Said, AnswerText]:
    """`text` read as an answer to `prompt`, token by token."""
    answer = AnswerText(tokenizer, tokens_of(tokenizer, prompt), stop)
    said = Said()
    for token in tokens_of(tokenizer, text):
        said.take((delta.kind, delta.text) for delta in answer.push(token))
        if answer.over:
            break
    said.take((delta.kind, delta.text) for delta in answer.flush())
    assert (said.answer, said.reasoning) == (answer.text, answer.reasoning)
    return said, answer


# -- finding marks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize("special", [False, True])
def test_marks_are_found_among_the_tokens(opening: str, closing: str, special: bool) -> None:
    tokenizer = tokenizer_with([opening, closing], special=special)
    ids = [tokenizer.backend.token_to_id(mark) for mark in (opening, closing)]
    assert find_marks(tokenizer) == Marks(Mark(opening, ids[0]), Mark(closing, ids[1]))


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_marks_are_found_in_the_template(opening: str, closing: str) -> None:
    tokenizer = tokenizer_with(template=f"{{# {opening}\n…{closing} #}}" + CHATML)
    assert find_marks(tokenizer) == Marks(Mark(opening, None), Mark(closing, None))


def test_the_template_decides_between_several_marks() -> None:
    tokenizer = tokenizer_with(["<think>", "</think>"], template="{# <reasoning> … </reasoning> #}" + CHATML)
    marks = find_marks(tokenizer)
    assert marks is not None
    assert marks.opening == Mark("<reasoning>", None)


def test_models_that_do_not_think_have_no_marks() -> None:
    for template in (CHATML, "{# enable_thinking message['reasoning'] <think> <tool_call> [x] [/x] #}" + CHATML):
        assert find_marks(tokenizer_with(template=template)) is None
    assert find_channels(tokenizer_with(HARMONY[:3])) is None


# -- marks in the text -------------------------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<",
        "<th",
        "ink>",
        "</",
        "</thi",
        "nk>",
        "<think",
        "/",
        " ",
        "\n",
        "\n\n",
        "a",
        "b c",
        "ä🙂",
    ]
)


def by_definition(text: str, opening: str, closing: str, *, opened: bool) -> Said:
    """The kinds of a whole text, without a stream."""
    thoughts: list[str] = []
    closed = False
    while True:
        begun = text.lstrip()
        if begun.startswith(opening):
            text, opened = begun[len(opening) :], True
        elif opened:
            thought, found, text = text.partition(closing)
            thoughts.append(thought.strip())
            opened, closed = False, True
            if not found:
                break
        elif begun.startswith(closing):
            text, closed = begun[len(closing) :], True
        else:
            text = begun if closed else text
            break
    return Said(text, "\n\n".join(thought for thought in thoughts if thought))


@given(text=st.lists(words).map("".join), cuts=st.data(), opened=st.booleans())
@example(text="<think>\n\n</think>\n\na", cuts=None, opened=False)
@example(text="</think></think> <think>a</think>b </think>", cuts=None, opened=True)
@example(text="a</think", cuts=None, opened=True)
def test_any_cutting_of_the_text_gives_the_same_kinds(text: str, cuts: st.DataObject | None, opened: bool) -> None:
    marks = Marks(Mark("<think>", None), Mark("</think>", None))
    splitter = MarkSplitter(marks, thinking=opened)
    said = Said()
    rest = text
    while rest:
        size = cuts.draw(st.integers(1, len(rest))) if cuts is not None else 1
        said.take(splitter.push(rest[:size]))
        rest = rest[size:]
    said.take(splitter.flush())
    assert said == by_definition(text, "<think>", "</think>", opened=opened)


def test_text_is_passed_on_as_soon_as_it_is_certain() -> None:
    splitter: Splitter = MarkSplitter(Marks(Mark("<think>", None), Mark("</think>", None)))
    pushed = ["<thi", "nk>", "so", " <", "x ", "</think", ">", "\n", "An", "swer </think>"]
    assert [splitter.push(text) for text in pushed] == [
        [],
        [],
        [("reasoning", "so")],
        [],
        [("reasoning", " <x")],
        [],
        [],
        [],
        [("answer", "An")],
        [("answer", "swer </think>")],
    ]


# -- marks that are tokens ---------------------------------------------------------------------------------------------


@given(
    runs=st.lists(st.sampled_from(["OPEN", "CLOSE", " ", "\n", "the ", "<think>", "</think>", "文", "🙂"])),
    opened=st.booleans(),
)
@example(runs=["OPEN", "</think>", "CLOSE", "\n", "<think>", "CLOSE"], opened=False)
def test_where_marks_are_tokens_only_those_are_marks(runs: list[str], opened: bool) -> None:
    tokenizer = tiny("byte-level")
    names = {"OPEN": "<think>", "CLOSE": "</think>"}
    answer = AnswerText(tokenizer, tokens_of(tokenizer, "<think>\n" if opened else "\n"), ())
    said = Said()
    for run in runs:
        mark = tokenizer.backend.token_to_id(names[run]) if run in names else None
        for token in [mark] if mark is not None else tokenizer.encode(run, special=False):
            said.take((delta.kind, delta.text) for delta in answer.push(token))
    said.take((delta.kind, delta.text) for delta in answer.flush())
    assert said == by_definition_of_tokens(runs, names, opened)
    ids = answer.tokens
    assert not ids or tokenizer.decode(ids) == answer.text


def by_definition_of_tokens(runs: list[str], names: dict[str, str], opened: bool) -> Said:
    """As for text, with words that no text holds for the marks; a second opening mark in a thought is nothing."""
    thought, answer, thoughts, closed = "", "", list[str](), False
    for run in runs:
        if answer.strip():
            answer += names.get(run, run)
        elif opened and run != "OPEN":
            thought += "" if run == "CLOSE" else run
            opened, closed = run != "CLOSE", closed or run == "CLOSE"
        elif run in names:
            opened, closed, answer = run == "OPEN", closed or run == "CLOSE", ""
        else:
            answer += run
        if not opened:
            thoughts.append(thought.strip())
            thought = ""
    thoughts.append(thought.strip())
    answer = "" if opened else answer.lstrip() if closed else answer
    return Said(answer, "\n\n".join(filter(None, thoughts)))


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize("kind", ["special", "added", "text"])
def test_thoughts_are_no_part_of_the_answer(opening: str, closing: str, kind: str) -> None:
    tokenizer = tokenizer_with(
        [opening, closing] if kind != "text" else [],
        special=kind == "special",
        template=f"{{# {opening} {closing} #}}" + CHATML,
    )
    said, answer = read(tokenizer, f"{opening}\nIt is read once.\n{closing}\n\nOnce, I think.")
    assert said == Said("Once, I think.", "It is read once.")
    assert answer.tokens == tuple(tokenizer.encode("Once, I think.", special=False))
    before = len(tokens_of(tokenizer, f"{opening}\nIt is read once.\n{closing}"))
    assert answer.reasoning_tokens == before


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("<|im_start|>assistant\n<think>\n", "Hm.\n</think>\n\nYes.", Said("Yes.", "Hm.")),
        ("<|im_start|>assistant\n<think>\n", "<think>\nHm.\n</think>\n\nYes.", Said("Yes.", "Hm.")),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "\nYes.", Said("Yes.", "")),
        ("<|im_start|>assistant\n", "\nYes: <think> opens.", Said("\nYes: <think> opens.", "")),
        ("<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n", "Yes.", Said("Yes.", "")),
        ("<|im_start|>assistant\n<think>\n", "Hm, and no end", Said("", "Hm, and no end")),
    ],
)
def test_the_prompt_says_where_the_answer_begins(prompt: str, text: str, expected: Said) -> None:
    assert read(tiny("byte-level"), text, prompt)[0] == expected
    assert read(tokenizer_with(template="{# <think> </think> #}" + CHATML), text, prompt)[0] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_tells_thoughts_apart(kind: str) -> None:
    tokenizer = tiny(kind)
    said, answer = read(tokenizer, "<think>Hm, 文 so</think>\n\nThe quick 🙂 dog")
    assert said == Said("The quick 🙂 dog", "Hm, 文 so")
    assert tokenizer.decode(answer.tokens) == said.answer


def test_stop_strings_end_answers_and_not_thoughts() -> None:
    said, answer = read(tiny("byte-level"), "<think>to stop here</think>Never stop now", stop=("stop",))
    assert said == Said("Never ", "to stop here")
    assert answer.over
    assert answer.tokens == ()
    said, answer = read(tiny("byte-level"), "<think>x</think>a sto", stop=("stop",))
    assert said == Said("a sto", "x")
    assert not answer.over


def test_a_character_that_thinking_breaks_off_is_not_lost() -> None:
    tokenizer = tiny("byte-level")
    ids = [
        *tokens_of(tokenizer, "<think>"),
        *tokenizer.encode("🙂", special=False)[:2],
        *tokens_of(tokenizer, "</think>"),
    ]
    answer = AnswerText(tokenizer, [], ())
    for token in ids:
        answer.push(token)
    answer.flush()
    assert (answer.text, answer.reasoning) == ("", "\ufffd")


def test_an_answer_without_thoughts_is_what_was_generated() -> None:
    for tokenizer in (tokenizer_with(), tiny("byte-level"), tiny("sentencepiece, first")):
        text = "  the lazy dog\n"
        said, answer = read(tokenizer, text)
        assert (said.reasoning, answer.reasoning_tokens) == ("", 0)
        assert said.answer == tokenizer.decode(tokens_of(tokenizer, text))
        assert answer.tokens == tuple(tokens_of(tokenizer, text))


def test_special_tokens_around_the_answer_are_the_templates() -> None:
    tokenizer = tokenizer_with(
        ["<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>", "<|END_TEXT|>"], special=True
    )
    text = "<|START_THINKING|>Hm<|END_THINKING|><|START_TEXT|>the dog<|END_TEXT|>"
    said, answer = read(tokenizer, text)
    assert said == Said("the dog", "Hm")
    assert answer.tokens == tuple(tokenizer.encode("the dog", special=False))


# -- channels ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harmony() -> Tokenizer:
    return tokenizer_with(HARMONY, special=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>Say.",
            Said("Say.", "Think."),
        ),
        ("<|channel|>final<|message|> Say.<|end|>more", Said(" Say.", "")),
        ("<|channel|>analysis<|message|>Thin", Said("", "Thin")),
        ("<|channel|>analysis<|message|>A.<|end|><|start|>assistant", Said("", "A.")),
        (
            "<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>commentary to=x <|constrain|>json"
            "<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>B",
            Said("B", "A.\n\n{}"),
        ),
        ("No channel at all", Said("No channel at all", "")),
        ("<|message|>No channel", Said("No channel", "")),
    ],
)
def test_the_final_channel_is_the_answer(harmony: Tokenizer, text: str, expected: Said) -> None:
    assert read(harmony, text, "<|start|>user<|message|>Hm?<|end|><|start|>assistant")[0] == expected


def test_a_prompt_may_have_begun_a_channel(harmony: Tokenizer) -> None:
    for channel, expected in (("final", Said("Text", "")), ("analysis", Said("", "Text"))):
        assert read(harmony, "Text", f"<|start|>assistant<|channel|>{channel}<|message|>")[0] == expected
    assert read(harmony, "Text", "no format")[0] == Said("Text", "")


def test_the_answer_of_a_channel_is_counted_and_over_by_its_end(harmony: Tokenizer) -> None:
    thought = "<|channel|>analysis<|message|>Think.<|end|>"
    header = "<|start|>assistant<|channel|>final<|message|>"
    _, answer = read(harmony, thought + header + "Say it.<|end|>", "<|start|>assistant")
    assert answer.over
    assert answer.tokens == tuple(harmony.encode("Say it.", special=False))
    assert answer.reasoning_tokens == len(tokens_of(harmony, thought + header))
    assert answer.inner_ends == {harmony.backend.token_to_id("<|end|>")}


def test_half_a_header_is_never_shown(harmony: Tokenizer) -> None:
    channels = find_channels(harmony)
    assert channels is not None
    splitter = ChannelSplitter(channels, harmony, tokens_of(harmony, "<|start|>assistant"))
    for token in tokens_of(harmony, "<|channel|>final"):
        pieces = splitter.mark(token) if splitter.is_mark(token) else splitter.push(harmony.decode([token]))
        assert pieces == []
    assert splitter.flush() == []
