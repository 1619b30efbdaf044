"""Models run by transformers' own code: what is found out about them, what is refused, and what recurrent ones carry.

That their numbers are those of transformers is for `tests/engine/test_parity.py`, which runs each through the engine.
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from engine.errors import BrokenModelError, UnsupportedModelError
from engine.models.adapter import TransformersModel
from engine.models.adapter_loading import load_transformers_model, transformers_fingerprint
from engine.models.decoder import Decoder
from engine.models.language_model import LayerSpec
from engine.models.load import load_language_model
from engine.models.loading import load_decoder
from tests.tiny_models import ADAPTED, NATIVE, STATEFUL, tiny_model

CPU = torch.device("cpu")


@functools.cache
def adapted(family: str, dtype: torch.dtype = torch.float32) -> TransformersModel:
    """Shared by the tests of this file; don't change it."""
    return load_transformers_model(tiny_model(family), device=CPU, dtype=dtype)


def inner(family: str) -> Any:
    """transformers' own model inside, for its rotary modules."""
    return adapted(family)._model.model


# -- who runs what -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "llama-yarn", "smollm3", "gemma3", "llama-dynamic", "lfm2"])
def test_the_native_decoder_takes_what_it_can_and_the_adapter_the_rest(family):
    model, fingerprint = load_language_model(tiny_model(family), device=CPU, dtype=torch.float32)
    assert isinstance(model, Decoder if family in NATIVE else TransformersModel)
    assert len(fingerprint) == 32


@pytest.mark.parametrize(
    "family", ["llama-biased", "llama-llama3", "llama-yarn", "mistral-sliding", "qwen2-sliding", "qwen3", "smollm3"]
)
def test_the_adapter_finds_in_native_families_what_their_configs_say(family):
    decoder = load_decoder(tiny_model(family), device=CPU, dtype=torch.float32)
    model = adapted(family)
    assert list(model.layers) == list(decoder.layers)
    (ours,), (theirs,) = model.rotary, decoder.rotary
    x, positions = torch.randn(40, 2, decoder.config.head_dim), torch.arange(0, 8000, 200)
    torch.testing.assert_close(ours.rotate(x, positions), theirs.rotate(x, positions), atol=1e-4, rtol=0)
    assert (model.max_position, model.vocab_size) == (decoder.max_position, decoder.vocab_size)
    assert (model.exact_only, model.stateful) == (None, False)


# -- what is found out -------------------------------------------------------------------------------------------------


def specs(family: str) -> list[LayerSpec]:
    return list(adapted(family).layers)


def test_windows_and_tables_differ_from_layer_to_layer():
    assert [(spec.window, spec.rotary) for spec in specs("gemma3")] == [(24, 0), (None, 1)] * 2
    assert [(spec.window, spec.rotary) for spec in specs("cohere2")] == [(24, 0)] * 3 + [(None, None)]
    assert [spec.window for spec in specs("gpt-oss")] == [24, None, 24]


def test_scales_softcaps_and_sinks_are_the_models():
    assert [spec.scale for spec in specs("granite")] == pytest.approx([0.2] * 3)
    assert [spec.softcap for spec in specs("gemma2")] == [2.0] * 3
    sinks = [layer.self_attn.sinks for layer in inner("gpt-oss").layers]
    for spec, own in zip(specs("gpt-oss"), sinks, strict=True):
        assert spec.sinks is not None
        assert torch.equal(spec.sinks, own)
        assert own.abs().max() > 0.1


def test_values_of_another_size_than_keys_are_kept_too():
    assert [(spec.num_kv_heads, spec.head_dim) for spec in specs("deepseek-v3")] == [(4, 24)] * 3


@pytest.mark.parametrize("family", ["gemma3", "phi3-partial", "glm4", "gpt-oss", "cohere", "cohere2"])
def test_tables_rotate_as_the_models_own_functions_do(family):
    """Halves or neighbours, all of a head or a part: as the module's function does it, by the module's angles."""
    model, own = adapted(family), inner(family)
    apply = sys.modules[type(own).__module__].apply_rotary_pos_emb
    q, positions = torch.randn(30, 4, 16), torch.randint(4096, (30,))
    kinds = ("sliding_attention", "full_attention") if family == "gemma3" else (None,)
    for table, kind in zip(model.rotary, kinds, strict=True):
        cos, sin = own.rotary_emb.forward(q, positions[None], *([kind] if kind else []))
        heads_first = q.transpose(0, 1)[None]
        expected, _ = apply(heads_first, heads_first, cos, sin)
        torch.testing.assert_close(table.rotate(q, positions), expected[0].transpose(0, 1), atol=2e-4, rtol=0)


@pytest.mark.parametrize("family", ADAPTED)
def test_half_precision_changes_nothing_that_is_found_out(family):
    model, coarse = adapted(family), adapted(family, torch.bfloat16)
    assert [(spec.rotary, spec.window) for spec in coarse.layers] == [(s.rotary, s.window) for s in model.layers]
    assert (coarse.exact_only, coarse.stateful) == (model.exact_only, model.stateful)
    assert coarse.dtype == torch.bfloat16


# -- what keeps a model to exact KV ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("llama-dynamic", "frequencies depend on the length"),
        ("phi3-longrope", "limited to 1024 tokens"),
        ("gpt2", "positions are learned"),
        ("lfm2", "carry a state"),
        ("qwen3-next", "carry a state"),
        ("jamba", "carry a state"),
    ],
)
def test_the_reason_for_exact_only_is_told(family, words):
    model = adapted(family)
    assert words in (model.exact_only or "")
    assert not model.rotary
    assert model.stateful == (family in STATEFUL)
    assert model.one_by_one == (family == "jamba")


def test_everything_else_may_be_moved():
    movable = [family for family in ADAPTED if adapted(family).exact_only is None]
    assert set(ADAPTED) - set(movable) == {"llama-dynamic", "phi3-longrope", "gpt2", *STATEFUL}


def test_the_context_ends_where_frequencies_would_change():
    assert adapted("phi3-longrope").max_position == 1024
    assert adapted("llama-dynamic").max_position == 4096


@pytest.mark.parametrize("max_context", [20, 1000])
def test_tables_are_no_longer_than_the_context_needs(max_context):
    model = load_transformers_model(tiny_model("gemma3"), device=CPU, dtype=torch.float32, max_context=max_context)
    assert model.exact_only is None
    assert max_context <= model.max_position <= max(max_context, 256)
    assert all(len(table.cos) == 2 * model.max_position for table in model.rotary)


def test_a_rotation_that_is_followed_by_a_norm_is_left_to_the_model(tmp_path):
    folder = tiny_from(tmp_path, "hunyuan_v1_dense")
    model = load_transformers_model(folder, device=CPU, dtype=torch.float32)
    assert "more than turn pairs" in (model.exact_only or "")


SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
EYES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def tiny_from(folder: Path, model_type: str, **fields: Any) -> Path:
    """A model straight from a transformers config: files without a tokenizer."""
    return written(folder, AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(SIZES | fields))))


def written(folder: Path, model: Any) -> Path:
    """Save `model` with random weights."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.2 if parameter.dim() > 1 else 0.5) + 0.01)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model_type", "text", "eyes"),
    [
        ("gemma3", {"sliding_window": 24}, {"image_size": 28, "patch_size": 14}),
        ("mistral3", {"model_type": "mistral"}, {"model_type": "pixtral", "head_dim": 16}),
    ],
)
def test_of_a_model_with_eyes_the_language_model_is_taken(tmp_path, model_type, text, eyes):
    config = AutoConfig.for_model(model_type, text_config=SIZES | text, vision_config=EYES | eyes)
    folder = written(tmp_path, AutoModelForImageTextToText.from_config(config))
    model, _ = load_language_model(folder, device=CPU, dtype=torch.float32)
    assert model.exact_only is None
    assert len(model.layers) == 2
    assert model.vocab_size == 400


# -- what is refused ---------------------------------------------------------------------------------------------------


# It attends to all of a short text, so that no short proof would show what it leaves out of a longer one
SPARSE = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_topk": 2048,
    "index_n_heads": 2,
    "index_head_dim": 16,
}


@pytest.mark.parametrize(
    ("model_type", "fields", "words"),
    [
        ("bloom", {"n_layer": 2, "n_head": 4}, "attention interface"),
        ("llama4_text", {"num_local_experts": 2, "attention_chunk_size": 32}, "sliding window"),
        ("deepseek_v32", SPARSE, "takes indices"),
        ("doge", {}, "change the attention mask"),
        ("recurrent_gemma", {"num_hidden_layers": 3, "lru_width": 64}, "state that was kept"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_name_and_the_reason(tmp_path, model_type, fields, words):
    folder = tiny_from(tmp_path, model_type, **fields)
    with pytest.raises(UnsupportedModelError, match=words) as error:
        load_language_model(folder, device=CPU, dtype=torch.float32)
    assert error.value.data["architecture"].endswith("ForCausalLM")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a tiny Gemma 3 that the test may damage."""
    return Path(shutil.copytree(tiny_model("gemma3"), tmp_path / "model"))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "unheard_of", "architectures": ["UnheardOf"]}, "unheard_of"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "can't load"),
        ({"quantization_config": {"quant_method": "fouroversix"}}, "can't load"),
    ],
)
def test_what_transformers_cannot_load_is_unsupported(folder, fields, words):
    change_config(folder, **fields)
    with pytest.raises(UnsupportedModelError, match=words):
        load_language_model(folder, device=CPU, dtype=torch.float32)


def test_missing_and_damaged_weights_are_named(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrokenModelError, match=r"layers\.1\.mlp\.up_proj"):
        load_language_model(folder, device=CPU, dtype=torch.float32)
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BrokenModelError):
        load_language_model(folder, device=CPU, dtype=torch.float32)


def test_pickled_weights_are_never_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not to be opened")
    with pytest.raises(BrokenModelError, match="safetensors"):
        load_language_model(folder, device=CPU, dtype=torch.float32)


def test_code_in_the_folder_is_never_run(folder):
    (folder / "modeling.py").write_text("raise SystemExit('was run')")
    change_config(folder, model_type="own", architectures=["Own"], auto_map={"AutoConfig": "modeling.Config"})
    with pytest.raises(UnsupportedModelError):
        load_language_model(folder, device=CPU, dtype=torch.float32)


def test_fingerprint_tells_models_apart(folder):
    same = transformers_fingerprint(folder, torch.float32)
    assert same == transformers_fingerprint(tiny_model("gemma3"), torch.float32)
    assert same != transformers_fingerprint(folder, torch.bfloat16)
    change_config(folder, sliding_window=23)
    assert same != transformers_fingerprint(folder, torch.float32)
    shutil.copy(tiny_model("gemma3") / "config.json", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert same != transformers_fingerprint(folder, torch.float32)


# -- states ------------------------------------------------------------------------------------------------------------


def no_attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Enough here: what a state carries does not come through attention."""
    return torch.zeros_like(q)


def advance(model: TransformersModel, ids: list[int], start: int, state: object | None) -> tuple[Tensor, object | None]:
    if model.one_by_one and state is not None and len(ids) > 1:
        first, state = advance(model, ids[:1], start, state)
        rest, state = advance(model, ids[1:], start + 1, state)
        return torch.cat((first, rest)), state
    positions = torch.arange(start, start + len(ids))
    with torch.inference_mode():
        return model.advance(torch.tensor(ids), positions, no_attention, state)


@pytest.mark.parametrize("family", STATEFUL)
def test_a_state_is_gone_on_from_as_often_as_one_likes(family):
    model = adapted(family)
    _, state = advance(model, list(range(20)), 0, None)
    kept = copy.deepcopy(state)
    first, after = advance(model, [7, 8, 9], 20, state)
    other, _ = advance(model, [200, 8, 9], 20, state)
    again, _ = advance(model, [7, 8, 9], 20, kept)
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.allclose(first[-1], other[-1], atol=1e-3)
    _, further = advance(model, [1], 23, after)
    assert further is not after


@pytest.mark.parametrize("family", STATEFUL)
def test_slices_of_any_size_come_to_the_same_state(family):
    model = adapted(family)
    ids = list(range(100, 124))
    whole, _ = advance(model, ids, 0, None)
    state, parts, start = None, [], 0
    for count in (1, 2, 13, 1, 7):
        hidden, state = advance(model, ids[start : start + count], start, state)
        parts.append(hidden)
        start += count
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=0)


def test_models_without_a_state_return_none():
    _, state = advance(adapted("olmo2"), [1, 2, 3], 0, None)
    assert state is None
