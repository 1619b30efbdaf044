"""Small tokenizers of the kinds that models come with, and chat templates of the kinds that trouble prompt builders.

Knows transformers and tokenizers, nothing of the engine.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CONTROLS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "[INST]", "[/INST]")
"""Added to every tokenizer here; ``<think>`` and ``</think>`` are not marked special."""

_CORPUS = (
    "def add(left, right):\n    return left + right\n\n\nclass Thing:\n    pass\n",
    "You are a helpful assistant. Answer from the files. user assistant system model\n\n\n",
    "The quick brown fox jumps over the lazy dog — and again: the quick, brown fox.\n",
)

TEMPLATES: dict[str, str] = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "chatml with a default system message": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are the default.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "no system role, trims": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
    ),
    "system inside the first user message": (
        "{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}"
        "{% elif m.role == 'user' %}{{ bos_token }}[INST] {{ (ns.system + m.content).strip() }} [/INST]"
        "{% set ns.system = '' %}{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "system inside the last user message": (
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
        "{% elif m.role == 'user' %}[INST] {% if loop.last %}{{ ns.system }}{% endif %}{{ m.content }}[/INST]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "reasoning removed from history": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and '</think>' in m.content %}"
        "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "only the last question": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
        "[INST]{{ messages[-1].content }}[/INST]"
    ),
    "question said twice": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>user\nOnce more: {{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "system said twice": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}{{ messages[0].content }}\n"
    ),
}


def _trained(alphabet: list[str]) -> dict[str, Any]:
    """A BPE model over words with their spaces as ▁, serialized; `alphabet` is in its vocabulary."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_CORPUS, trainer)
    model: dict[str, Any] = json.loads(bpe.to_str())["model"]
    return model


def _byte_fallback_model() -> models.BPE:
    """Characters it doesn't know become ``<0x..>`` byte tokens, as with SentencePiece."""
    trained = _trained([])
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for token in sorted(trained["vocab"], key=trained["vocab"].get):
        vocab.setdefault(token, len(vocab))
    merges = [tuple(merge) for merge in trained["merges"]]
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)


def _sentencepiece(scheme: str | None) -> Tokenizer:
    """`scheme` of a Metaspace pre-tokenizer; None puts the space before text by a normalizer, as Llama 2 does."""
    bpe = Tokenizer(_byte_fallback_model())
    if scheme is None:
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return bpe


def _byte_level(add_prefix_space: bool) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    return bpe


def _added(eating: bool = False) -> list[AddedToken]:
    """The control tokens; `eating` ones swallow the whitespace behind them."""
    return [AddedToken(name, special="think" not in name, normalized=False, rstrip=eating) for name in CONTROLS]


def _with(tokenizer: Tokenizer, added: list[AddedToken]) -> Tokenizer:
    for token in added:  # one by one, to keep special and ordinary ones in this order
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


_WHITESPACE_TOKENS = [AddedToken(" " * count, normalized=False) for count in (8, 4, 2)]

_MAKERS = {
    "byte-level": lambda: _with(_byte_level(False), _added()),
    "byte-level with prefix space": lambda: _with(_byte_level(True), _added()),
    "byte-level with whitespace tokens": lambda: _with(_byte_level(False), [*_added(), *_WHITESPACE_TOKENS]),
    "byte-level, whitespace eaten": lambda: _with(_byte_level(False), _added(eating=True)),
    "sentencepiece, prepended": lambda: _with(_sentencepiece(None), _added()),
    "sentencepiece, first": lambda: _with(_sentencepiece("first"), _added()),
    "sentencepiece, never": lambda: _with(_sentencepiece("never"), _added()),
}
KINDS = tuple(_MAKERS)


@functools.cache
def tiny_tokenizer(kind: str, template: str = "chatml") -> PreTrainedTokenizerFast:
    """A tokenizer of `kind` (of `KINDS`) with a template of `TEMPLATES`, or with none for ``""``; never change it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_MAKERS[kind](),
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATES[template] if template else None,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, **generation_config: Any) -> Path:
    """Write the tokenizer's files, and a config and a generation config such as a model folder has."""
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "generation_config.json").write_text(json.dumps(generation_config))
    return folder
