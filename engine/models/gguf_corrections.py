"""What a GGUF says, or leaves to its reader's knowledge, and transformers does not take from it.

Each function corrects a model or tokenizer that transformers has just read. Knows nothing of files.
"""

from __future__ import annotations

from typing import Any

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import GenerationConfig

SAME_MATRIX = 0.5
"""Two matrices that differ by less than this share of their norm are one matrix, quantized twice: quantizing to 2 bits
stays below 0.3, and unrelated matrices of equal norm are 1.4 apart."""

DIGITS_APART = frozenset({"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"})
"""Values of `tokenizer.ggml.pre` whose vocabularies were learned on text with every digit split off first."""

ENDINGS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<end_of_turn>", "<EOT>")
"""Control tokens that end an answer by their name. A GGUF names only one, its models use several."""


def tie_if_same(model: Any, keep_output: bool) -> bool:
    """Ties embedding and output if they are one matrix, to the finer of its two quantizations; says whether it did.

    Many GGUFs of tied models carry the matrix twice, and transformers then takes the model for an untied one.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is None or output.weight is embedding.weight or not same_matrix(embedding.weight, output.weight):
        return False
    embedding.weight = output.weight = output.weight if keep_output else embedding.weight
    model.config.get_text_config().tie_word_embeddings = True
    model.config.tie_word_embeddings = True
    return True


def same_matrix(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two [vocabulary, width] matrices agree but for quantization; judged by every 16th row."""
    if a.shape != b.shape:
        return False
    a, b = a.detach()[::16].float(), b.detach()[::16].float()
    return bool((a - b).norm() < SAME_MATRIX * torch.maximum(a.norm(), b.norm()))


def output_is_finer(types: dict[str, gguf.GGMLQuantizationType]) -> bool:
    """Whether the output matrix has at least as many bits per weight as the embedding; `types` by tensor name."""

    def bits(name: str) -> float:
        block_weights, block_bytes = gguf.GGML_QUANT_SIZES[types[name]]
        return 8 * block_bytes / block_weights

    output, embedding = "output.weight", "token_embd.weight"
    return output in types and embedding in types and bits(output) >= bits(embedding)


def split_digits(tokenizer: Any, pre: str | None) -> None:
    """Splits digits off before anything else where the vocabulary, of which `pre` is the GGUF's word, wants it.

    Without it whitespace before a digit is cut otherwise than the model has learned.
    """
    backend = tokenizer.backend_tokenizer
    if pre in DIGITS_APART and backend.pre_tokenizer is not None:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def set_endings(model: Any, tokenizer: Any) -> None:
    """Gives the model a generation config in which every ending token ends an answer, the GGUF's own one first."""
    controls = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    endings = list(dict.fromkeys([*own, *(controls[name] for name in ENDINGS if name in controls)]))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=endings or None, pad_token_id=tokenizer.pad_token_id
    )
