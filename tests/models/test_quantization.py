"""Checkpoints with quantized weights: what is asked for before they are loaded, and what tells them apart."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch

from engine.errors import UnsupportedModelError
from engine.models.adapter import TransformersModel
from engine.models.adapter_loading import transformers_fingerprint
from engine.models.load import load_language_model
from engine.models.quantization import PACKAGES
from tests.models.page import PAGE
from tests.quantized_models import QUANTIZED, quantized_model
from tests.tiny_models import tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a tiny Llama that the test may change."""
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


def claim(folder: Path, **settings: object) -> None:
    """Let the config say that the weights are quantized."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


def not_installed(package: str) -> str:
    raise metadata.PackageNotFoundError(package)


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_kv_can_be_moved(name: str, dtype: torch.dtype):
    model, _ = load_language_model(quantized_model(name, dtype), device=CPU, dtype=dtype)
    assert isinstance(model, TransformersModel)
    assert model.exact_only is None
    assert model.dtype == dtype


@pytest.mark.parametrize(("method", "packages"), PACKAGES.items())
def test_what_is_missing_is_named_as_pip_would_install_it(folder, monkeypatch, method, packages):
    claim(folder, quant_method=method, bits=4)
    monkeypatch.setattr(metadata, "version", not_installed)
    with pytest.raises(
        UnsupportedModelError, match=f"quantized with {method}: pip install {' '.join(packages)}"
    ) as error:
        load_language_model(folder, device=CPU, dtype=torch.float32)
    assert error.value.data["packages"] == list(packages)


def test_early_bitsandbytes_checkpoints_are_known_by_their_settings(folder, monkeypatch):
    monkeypatch.setattr(metadata, "version", not_installed)
    claim(folder, load_in_8bit=True)
    with pytest.raises(UnsupportedModelError, match="pip install bitsandbytes"):
        load_language_model(folder, device=CPU, dtype=torch.float32)


def test_a_method_that_transformers_does_not_know_is_refused_though_transformers_would_go_on(folder):
    claim(folder, quant_method="unheard_of")
    with pytest.raises(UnsupportedModelError, match="quantized with unheard_of, which transformers"):
        load_language_model(folder, device=CPU, dtype=torch.float32)


def test_packed_weights_count_in_the_fingerprint_and_so_does_what_computes_with_them(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(quantized_model("torchao-int8"), tmp_path / "model"))
    same = transformers_fingerprint(folder, torch.float32)
    assert same == transformers_fingerprint(quantized_model("torchao-int8"), torch.float32)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    name, place = packed_tensor(content)
    content[place] ^= 1
    path.write_bytes(content)
    assert same != transformers_fingerprint(folder, torch.float32), name
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda package: "0.1" if package == "torchao" else installed(package))
    assert same != transformers_fingerprint(quantized_model("torchao-int8"), torch.float32)


def packed_tensor(content: bytearray) -> tuple[str, int]:
    """The name of an int8 tensor in a safetensors file, and the place of its first byte."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = next(name for name, entry in header.items() if entry.get("dtype") == "I8")
    return name, 8 + size + int(header[name]["data_offsets"][0])


def test_the_page_names_every_method_and_its_packages():
    page = PAGE.read_text(encoding="utf-8")
    for method, packages in PACKAGES.items():
        assert f"`{method}`" in page
        assert all(f"`{package}`" in page for package in packages)
