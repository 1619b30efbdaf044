"""Tiny models that always say the same: each token is followed by the one that a script puts behind it.

The files are those of any model. Attention and MLP add nothing, so what comes next depends on the last token alone, and
no token may occur twice in a script. Knows transformers and tokenizers, nothing of the engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny_models import CHATML, MAX_POSITION, make_tokenizer

THINKING_CHATML = CHATML.replace("message['content']", "message['content'].split('</think>')[-1].strip()")
"""Drops the thoughts of earlier answers, as templates of thinking models do."""

OPENING_CHATML = THINKING_CHATML.replace("assistant\n'", "assistant\n<think>\n'")
"""Opens the thoughts in the generation prompt."""


THOUGHT, ANSWER = "It is read", "Once, the fox"


def make_thinking_model(folder: Path) -> Path:
    """Write a model that always thinks `THOUGHT` and then answers `ANSWER`; returns `folder`."""
    script = f"<think>{THOUGHT}</think>\t{ANSWER}"
    make_scripted_model(folder, script, marks=("<think>", "</think>"), template=THINKING_CHATML)
    return folder


def make_scripted_model(
    folder: Path, script: str, *, marks: Sequence[str] = (), template: str = CHATML
) -> PreTrainedTokenizerFast:
    """Write a model that answers every question with `script` and then ends its turn; returns its tokenizer.

    Args:
        marks: become tokens of their own, not special ones.
        template: of the chat; its generation prompt must end in a token that the script doesn't hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_tokens(list(marks))
    opening = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)
    prompt = opening["input_ids"] if not isinstance(opening, list) else opening
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chain = [prompt[-1], *tokenizer.encode(script, add_special_tokens=False), end]
    assert len(set(chain)) == len(chain), f"a token occurs twice: {tokenizer.convert_ids_to_tokens(chain)}"
    _chained_model(len(tokenizer), chain).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


@torch.no_grad()
def _chained_model(vocabulary: int, chain: Sequence[int]) -> PreTrainedModel:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITION,
        bos_token_id=None,
        eos_token_id=chain[-1],
        tie_word_embeddings=False,
        dtype="float32",
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(eos_token_id=chain[-1])
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(vocabulary, 64, generator=generator), dim=1)
    model.get_input_embeddings().weight.copy_(embeddings)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            parameter.zero_()
    for token, following in itertools.pairwise(chain):
        model.get_output_embeddings().weight[following] = embeddings[token]
    return model
