"""Small random models with a real tokenizer and chat template, in the same files as a model from the hub.

One per family and per feature (RoPE scaling, sliding windows, NoPE layers, sinks, …). Weights, norms and biases are all
random and large enough that attention matters: a wrong position, mask or bias changes the logits visibly.
Knows transformers and tokenizers, nothing of the engine.
"""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

MAX_POSITION = 4096
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)

NATIVE: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "llama-llama3": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama-yarn": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
    },
    "llama-linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 32},
    "mistral-sliding": {"model_type": "mistral", "sliding_window": 24},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-sliding": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 24,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layer_interval": 2},
}

# Run by transformers' own code; the key says which feature counts, where the model type does not
ADAPTED: dict[str, dict[str, Any]] = {
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 2.0},
        },
    },
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "attn_logit_softcapping": 2.0,
    },
    "phi3": {"model_type": "phi3"},
    "phi3-partial": {
        "model_type": "phi3",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
    },
    "phi3-longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [3.0] * 8,
            "original_max_position_embeddings": 1024,
            "partial_rotary_factor": 1.0,
        },
    },
    "stablelm": {"model_type": "stablelm"},
    "glm4": {"model_type": "glm4", "head_dim": 16},
    "qwen3-moe": {
        "model_type": "qwen3_moe",
        "head_dim": 16,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gpt-oss": {
        "model_type": "gpt_oss",
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 24,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "truncate": False,
        },
    },
    "olmo2": {"model_type": "olmo2"},
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "cohere": {"model_type": "cohere", "logit_scale": 0.5},
    "cohere2": {"model_type": "cohere2", "num_hidden_layers": 4, "sliding_window": 24},
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
    "llama-dynamic": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    },
    "gpt2": {"model_type": "gpt2"},
    "lfm2": {
        "model_type": "lfm2",
        "layer_types": ["conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False,
    },
    "qwen3-next": {
        "model_type": "qwen3_next",
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "jamba": {
        "model_type": "jamba",
        "num_hidden_layers": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
    },
}
STATEFUL = ("lfm2", "qwen3-next", "jamba")

FAMILIES = NATIVE | ADAPTED

_CORPUS = (
    "def add(left: int, right: int) -> int:\n    return left + right\n",
    "class Greeter:\n    def __init__(self, name: str) -> None:\n        self.name = name\n",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.\n",
    "# Reading\n\nA file is read once; what is in it can be asked about as often as one likes.\n",
    "for index, value in enumerate(values):\n    print(index, value)\n",
    "You are a helpful assistant. Answer from the files you are given.\nuser\nassistant\nsystem\n",
    "import os\nfrom pathlib import Path\n\nroot = Path(__file__).parent\n",
)


def make_tiny_model(
    family: str, folder: Path, *, seed: int = 0, system_role: bool = True, endless: bool = True, **config: Any
) -> Path:
    """Write a random model of `family` (a key of `FAMILIES`) into `folder`; returns `folder`.

    Args:
        seed: of the weights; the same seed gives the same bytes.
        system_role: False takes a chat template that refuses system messages.
        endless: the special tokens are made unlikely, so greedy answers run to `max_tokens`.
        config: fields of the transformers config to set or override.

    The folder holds config.json, model.safetensors (float32), generation_config.json and the tokenizer's files;
    end-of-answer tokens are ``<|im_end|>`` and ``<|endoftext|>``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(system_role=system_role)
    model = _random_model({**FAMILIES[family], **config}, tokenizer, seed)
    if endless:
        _make_unlikely(model, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def tiny_model(family: str, *, seed: int = 0, system_role: bool = True) -> Path:
    """`make_tiny_model`, made once per test session in a folder that goes at exit; read it, never change it."""
    return make_tiny_model(
        family, session_folder() / f"{family}-{seed}-{system_role}", seed=seed, system_role=system_role
    )


def make_tokenizer(*, system_role: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 tokens with a ChatML template; any text survives a round trip."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITION,
        chat_template=CHATML if system_role else CHATML_WITHOUT_SYSTEM,
    )


@functools.cache
def session_folder() -> Path:
    """For what tests make once and share; goes at exit."""
    folder = tempfile.TemporaryDirectory(prefix="tiny-models-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _random_model(fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    endings = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    defaults = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITION,
        "bos_token_id": None,
        "eos_token_id": endings[0],
        "pad_token_id": endings[1],
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**defaults, **fields}))
    model.generation_config = GenerationConfig(eos_token_id=endings, pad_token_id=endings[1])
    _randomise(model, torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Matrices keep the scale of their input (times 1.5), norms spread around 1, biases and sinks around 0."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:
            parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
        else:
            parameter.copy_(noise * 0.3 + (1.0 if "norm" in name else 0.0))


@torch.no_grad()
def _make_unlikely(model: PreTrainedModel, token_ids: list[int]) -> None:
    """Shrink the tokens' rows of the output matrix: their logits stay near zero (as inputs the tokens still count)."""
    model.get_output_embeddings().weight[token_ids] *= 0.02
