"""Tokenizer: the same ids as transformers for template text, no control token from contents, on every kind."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequestError, UnsupportedModelError
from engine.models.catalogue import find, model_file
from engine.models.gguf import converted_folder, is_converted
from engine.tokenizer import Span, Tokenizer
from tests.tiny_tokenizers import CONTROLS, KINDS, save_tokenizer, tiny_tokenizer

fewer = settings(max_examples=40)  # for every kind of tokenizer
REAL = ("smollm2-135m", "qwen2.5-coder-0.5b")

plain_text = st.lists(
    st.one_of(
        st.text(max_size=8), st.sampled_from(["  ", "\n", "\n\n", " a", "def f():\n    ", "    ", "é", "🙂", "文"])
    )
).map("".join)
text_with_controls = st.lists(st.one_of(st.sampled_from([*CONTROLS, "<|im_", "end|>", "</"]), plain_text)).map("".join)


@functools.cache
def tiny(kind: str, template: str = "chatml") -> Tokenizer:
    return Tokenizer(tiny_tokenizer(kind, template))


@functools.cache
def real(name: str) -> Tokenizer:
    model = find(name)
    assert model is not None
    if not is_converted(model_file(model)):
        pytest.skip(f"{name} is not in the cache")
    return Tokenizer.from_folder(converted_folder(model_file(model)))


def holds_no_control(text: str) -> bool:
    return not any(name in text for name in CONTROLS)


@pytest.mark.parametrize("kind", KINDS)
@fewer
@given(text=text_with_controls)
@example(text="<s>[INST] a b [/INST] c </s><s>[INST]\n\nd<think></think>  e")
def test_template_text_is_tokenized_as_transformers_does(kind: str, text: str) -> None:
    expected = tiny_tokenizer(kind).encode(text, add_special_tokens=False)
    assert tiny(kind).encode(text, special=True) == expected


@pytest.mark.parametrize("kind", KINDS)
@fewer
@given(text=text_with_controls)
def test_ordinary_text_yields_no_control_token_and_is_not_lost(kind: str, text: str) -> None:
    tokenizer = tiny(kind)
    ids = tokenizer.encode(text, special=False)
    assert not {tokenizer.backend.token_to_id(name) for name in CONTROLS} & set(ids)
    decoded = tokenizer.decode([*tokenizer.encode("a", special=False), *ids])
    assert decoded == "a" + (text.replace("▁", " ") if kind.startswith("sentencepiece") else text)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "eaten" not in kind])
@fewer
@given(before=plain_text, after=plain_text)
def test_a_name_built_from_template_and_content_is_no_control_token(kind: str, before: str, after: str) -> None:
    tokenizer = tiny(kind)
    spans = [Span(before + "<|im_", control=True), Span("end"), Span("|>" + after, control=True)]
    ids = tokenizer.encode_spans(spans, at_start=True)
    assert tokenizer.backend.token_to_id("<|im_end|>") not in ids


@pytest.mark.parametrize("kind", KINDS)
@fewer
@given(cuts=st.lists(st.tuples(plain_text, st.sampled_from(["", "<|im_start|>", "</s>\n", " x "]), st.booleans())))
def test_spans_are_tokenized_as_one_text(kind: str, cuts: list[tuple[str, str, bool]]) -> None:
    spans = [span for text, control, _ in cuts for span in (Span(text), Span(control, control=True))]
    whole = "".join(span.text for span in spans)
    if not holds_no_control("".join(text for text, _, _ in cuts)):
        return
    expected = tiny_tokenizer(kind).encode(whole, add_special_tokens=False)
    assert tiny(kind).encode_spans(spans, at_start=True) == expected


def test_verbatim_ids_are_taken_as_they_are() -> None:
    tokenizer = tiny("byte-level")
    spans = [Span("<s>a", control=True), Span("ignored", ids=(7, 8, 9)), Span("b</s>", control=True)]
    a, b = tokenizer.encode("<s>a", special=True), tokenizer.encode("b</s>", special=True)
    assert tokenizer.encode_spans(spans, at_start=True) == [*a, 7, 8, 9, *b]


def test_indentation_tokens_are_ordinary_text() -> None:
    tokenizer = tiny("byte-level with whitespace tokens")
    assert tokenizer.backend.token_to_id(" " * 8) in tokenizer.encode("if x:\n" + " " * 8 + "pass", special=False)


def test_control_names_in_the_vocabulary_itself_are_spelled_out() -> None:
    """Unigram and word vocabularies find any of their entries in a text, whether or not it is an added token."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "</s>": 1, "<": 2, "/": 3, "s": 4, ">": 5}
    backend = Backend(models.WordLevel(vocab, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    tokenizer = Tokenizer(fast)
    assert tokenizer.encode("</s>", special=True) == [1]
    assert tokenizer.encode("</s>", special=False) == [2, 3, 4, 5]
    assert tokenizer.encode("other", special=False) == [0]


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_agree_with_transformers(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = real(name)
    model = find(name)
    assert model is not None
    reference = AutoTokenizer.from_pretrained(converted_folder(model_file(model)))
    source = Path(__file__).read_text(encoding="utf-8")
    assert tokenizer.encode(source, special=True) == reference.encode(source, add_special_tokens=False)
    special = set(reference.all_special_ids) | set(reference.added_tokens_decoder)
    evil = "".join(f" x{token.content}\n" for token in reference.added_tokens_decoder.values()) + source
    ids = tokenizer.encode(evil, special=False)
    assert not special & set(ids)
    assert tokenizer.decode(ids) == evil


@pytest.mark.parametrize("name", REAL)
def test_real_answers_end_with_the_turn(name: str) -> None:
    tokenizer = real(name)
    assert tokenizer.backend.token_to_id("<|im_end|>") in tokenizer.eos_token_ids
    assert tokenizer.has_system_role


def test_eos_is_what_files_tokenizer_and_template_say(tmp_path: Path) -> None:
    fast = tiny_tokenizer("byte-level", "chatml")
    tokenizer = Tokenizer.from_folder(save_tokenizer(fast, tmp_path, eos_token_id=[3, 5]))
    ids = fast.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    assert tokenizer.eos_token_ids == {3, 5, *ids}


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="tokenizer"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(UnsupportedModelError, match="not a folder"):
        Tokenizer.from_folder(tmp_path / "nowhere")


def test_a_template_that_refuses_says_so() -> None:
    tokenizer = tiny("byte-level", "no system role, trims")
    assert not tokenizer.has_system_role
    with pytest.raises(InvalidRequestError, match="no system role"):
        tokenizer.render([{"role": "system", "content": "a"}])


def test_without_a_template_there_are_plain_headings() -> None:
    tokenizer = tiny("byte-level", "")
    text = tokenizer.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert text == "### User:\nHi\n\n### Assistant:\n"
