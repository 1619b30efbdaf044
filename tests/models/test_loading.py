"""Loading from safetensors: sharded files, fingerprints, and a clear error for everything that can be wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.errors import BrokenModelError, ModelNotFoundError, UnsupportedModelError
from engine.models import gguf
from engine.models.decoder import Decoder
from engine.models.decoder_config import read_decoder_config
from engine.models.load import load_language_model
from engine.models.loading import load_decoder, model_fingerprint
from tests.tiny_models import make_tiny_model, tiny_model


def load(folder: Path, dtype: torch.dtype = torch.float32, *, mapped: bool = False, progress: Any = None) -> Decoder:
    return load_decoder(folder, device=torch.device("cpu"), dtype=dtype, mapped=mapped, progress=progress)


def fingerprint(folder: Path, dtype: torch.dtype = torch.float32) -> bytes:
    return model_fingerprint(folder, read_decoder_config(folder), dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a tiny Qwen2 model that the test may damage."""
    return Path(shutil.copytree(tiny_model("qwen2"), tmp_path / "model"))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors; `__` in a keyword stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors")


def shard(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(target, max_shard_size="60KB")
    assert len(list(target.glob("*.safetensors"))) > 3
    return target


def named_weights(decoder: Decoder) -> dict[str, torch.Tensor]:
    """All there are; those of layers as `0.qkv`."""
    weights = decoder.weights
    layers = {f"{i}.{name}": getattr(layer, name) for i, layer in enumerate(weights.layers) for name in layer.__slots__}
    every = {"embedding": weights.embedding, "norm": weights.norm, "head": weights.head, **layers}
    return {name: weight for name, weight in every.items() if weight is not None}


def assert_same_weights(one: Decoder, other: Decoder) -> None:
    ours, theirs = named_weights(one), named_weights(other)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name


def test_shards_hold_the_same_model(tmp_path):
    sharded = shard(tiny_model("llama"), tmp_path / "sharded")
    assert_same_weights(load(sharded), load(tiny_model("llama")))
    assert fingerprint(sharded) == fingerprint(tiny_model("llama"))


def test_dtype_is_converted_while_reading():
    decoder = load(tiny_model("qwen2"), torch.bfloat16)
    assert decoder.dtype == torch.bfloat16
    layer, exact = decoder.weights.layers[0], load(tiny_model("qwen2")).weights.layers[0]
    assert torch.equal(layer.qkv, exact.qkv.bfloat16())
    assert layer.qkv_bias is not None
    assert layer.qkv_bias.dtype == torch.bfloat16


# -- mapped ------------------------------------------------------------------------------------------------------------


def in_files(decoder: Decoder, folder: Path) -> set[str]:
    """Names of weights that are views of a whole file in `folder`; layers' weights by the name they all have."""
    sizes = {path.stat().st_size for path in folder.glob("*.safetensors")}
    named = named_weights(decoder).items()
    return {name.split(".")[-1] for name, weight in named if weight.untyped_storage().nbytes() in sizes}


def test_mapped_weights_stay_in_the_file_and_are_the_same():
    mapped, copied = load(tiny_model("qwen2"), mapped=True), load(tiny_model("qwen2"))
    assert_same_weights(mapped, copied)
    one_by_one = {"embedding", "head", "norm", "attention_norm", "mlp_norm", "output", "down"}
    assert in_files(mapped, tiny_model("qwen2")) == one_by_one | {"gate_up"}, "gate and up lie one behind the other"
    assert in_files(copied, tiny_model("qwen2")) == set()


def test_what_shards_part_is_copied(tmp_path):
    sharded = shard(tiny_model("llama"), tmp_path / "sharded")
    mapped = load(sharded, mapped=True)
    assert_same_weights(mapped, load(tiny_model("llama")))
    assert "down" in in_files(mapped, sharded)


def test_weights_of_another_dtype_are_not_mapped():
    mapped = load(tiny_model("qwen2"), torch.bfloat16, mapped=True)
    assert_same_weights(mapped, load(tiny_model("qwen2"), torch.bfloat16))
    assert in_files(mapped, tiny_model("qwen2")) == set()


def test_mapped_weights_outlive_their_folder(folder):
    mapped, other = load(folder, mapped=True), make_tiny_model("qwen2", folder.with_name("other"), seed=1)
    folder.rename(folder.with_name("old"))
    other.rename(folder)
    shutil.rmtree(folder.with_name("old"))
    assert_same_weights(mapped, load(tiny_model("qwen2")))


def test_no_file_changes_with_a_mapped_weight(folder):
    load(folder, mapped=True).weights.embedding.zero_()
    assert_same_weights(load(folder), load(tiny_model("qwen2")))


@pytest.mark.parametrize("converted", [True, False])
def test_only_conversions_are_mapped(folder, converted):
    if converted:
        (folder / gguf.STAMP).write_text("{}")
    model, _ = load_language_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(model, Decoder)
    assert ("down" in in_files(model, folder)) == converted


# -- progress, tied embeddings, fingerprints ---------------------------------------------------------------------------


def test_progress_rises_to_the_end():
    reports: list[tuple[str, float | None]] = []
    load(tiny_model("qwen2"), progress=lambda message, fraction: reports.append((message, fraction)))
    fractions = [fraction for _, fraction in reports if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied_embeddings_may_lie_under_either_name(folder, kept):
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(folder, model__embed_tokens__weight=None)
    change_weights(folder, **{kept.replace(".", "__"): embedding})
    assert_same_weights(load(folder), load(tiny_model("qwen2")))


def test_fingerprint_tells_models_apart(tmp_path, folder):
    same = fingerprint(folder)
    assert len(same) == 32
    assert same == fingerprint(tiny_model("qwen2"))
    assert same != fingerprint(folder, torch.bfloat16)
    assert same != fingerprint(make_tiny_model("qwen2", tmp_path / "other", seed=1))
    change_config(folder, eos_token_id=7)
    assert same == fingerprint(folder)
    change_config(folder, rms_norm_eps=1e-3)
    assert same != fingerprint(folder)


def test_fingerprint_sees_one_changed_norm(folder):
    before = fingerprint(folder)
    norm = load_file(folder / "model.safetensors")["model.layers.1.input_layernorm.weight"]
    change_weights(folder, model__layers__1__input_layernorm__weight=norm + 0.5)
    assert fingerprint(folder) != before


def test_missing_folder_and_missing_files(tmp_path, folder):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load(folder)


class _Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_pickled_weights_are_never_opened(tmp_path, folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "opened")))
    with pytest.raises(ModelNotFoundError, match="safetensors only"):
        load(folder)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "Qwen2ForSequenceClassification"),
        ({"model_type": "qwen9", "architectures": ["Qwen9ForCausalLM"]}, "Qwen9ForCausalLM"),
        ({"model_type": "own", "architectures": ["Own"], "auto_map": {"AutoConfig": "own.Config"}}, "Own"),
        ({"model_type": "gemma2", "architectures": None}, "gemma2"),
    ],
)
def test_other_architectures_are_refused_by_name(folder, fields, named):
    change_config(folder, **fields)
    with pytest.raises(UnsupportedModelError, match=f"{named}.*Qwen3ForCausalLM") as caught:
        load(folder)
    assert caught.value.data["architecture"] == named


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic.*yarn"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized"),
        ({"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_unsupported_features_are_refused(folder, fields, words):
    change_config(folder, **fields)
    with pytest.raises(UnsupportedModelError, match=words):
        load(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{not json",
        "[]",
        '{"model_type": "qwen2", "hidden_size": "wide"}',
        '{"model_type": "qwen2", "num_attention_heads": 0}',
    ],
)
def test_a_damaged_config_is_an_error(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(BrokenModelError, match=r"config\.json"):
        load(folder)


def test_a_truncated_file_is_an_error(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BrokenModelError, match=r"model\.safetensors"):
        load(folder)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(BrokenModelError, match=r"model\.safetensors"):
        fingerprint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__layers__1__mlp__up_proj__weight": None}, r"no model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"model__norm__weight": torch.ones(65)}, r"\(65,\).*\(64,\)"),
        ({"model__layers__0__self_attn__o_proj__bias": torch.zeros(64)}, r"o_proj\.bias"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_an_error(folder, changes, words):
    change_weights(folder, **changes)
    with pytest.raises(BrokenModelError, match=words):
        load(folder)


def test_an_untied_model_without_output_matrix_is_an_error(folder):
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(BrokenModelError, match=r"lm_head\.weight"):
        load(folder)


def test_integer_weights_are_refused(folder):
    change_weights(folder, model__norm__weight=torch.ones(64, dtype=torch.int8))
    with pytest.raises(UnsupportedModelError, match="I8"):
        load(folder)


def test_a_missing_shard_and_a_damaged_index_are_errors(tmp_path):
    sharded = shard(tiny_model("llama"), tmp_path / "sharded")
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(BrokenModelError, match=lost.name):
        load(sharded)
    (sharded / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BrokenModelError, match=r"index\.json"):
        load(sharded)
