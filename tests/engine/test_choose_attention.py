"""Which backend attends: what is asked for or what is best here, and what is said where it can't be had."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from engine import Engine
from engine.attention import choose
from engine.attention.by_size import BySize
from engine.attention.choose import _with_flash, check_backend, make_attention
from engine.attention.flash_api import FlashAttention2, find_flash
from engine.attention.flash_attention import FlashAttention
from engine.attention.timing import time_step
from engine.attention.torch_attention import TorchAttention
from engine.config import Attention, EngineConfig
from engine.errors import InvalidRequestError
from engine.kv.pool import KVPool
from engine.models.language_model import LanguageModel, LayerSpec
from engine.models.rotary import RopeFrequencies, RotaryTable
from tests.engine.fake_flash import FLASH_2, FLASH_4
from tests.engine.test_parity import config
from tests.tiny_models import tiny_model

CPU = torch.device("cpu")


def model(*layers: LayerSpec) -> LanguageModel:
    """As much of a model as attention is made from."""
    return cast(LanguageModel, SimpleNamespace(layers=layers or (LayerSpec(4, 2, 16, 0.25),), rotary=()))


def made(attention: Attention, decoder: LanguageModel | None = None, dtype: torch.dtype = torch.bfloat16) -> object:
    pool = KVPool([(2, 16)], 40, 8, dtype=dtype, device=CPU)
    return make_attention(EngineConfig(attention=attention), pool, decoder or model())


@pytest.fixture
def has_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """flash-attn is installed, and the device is as good as one of CUDA."""
    monkeypatch.setattr(choose, "find_flash", lambda: FlashAttention2(FLASH_2))
    monkeypatch.setattr(choose, "check_backend", lambda config, device: None)


def test_a_cpu_is_served_by_torch() -> None:
    assert isinstance(made("auto"), TorchAttention)
    assert isinstance(made("torch"), TorchAttention)


def test_a_backend_that_is_not_installed_is_refused_with_what_to_install() -> None:
    if find_flash() is not None:
        pytest.skip("flash-attn is installed")
    with pytest.raises(InvalidRequestError, match=r"pip install 'ctx-lsp\[flash\]'"):
        made("flash")
    with pytest.raises(InvalidRequestError, match="flash"):
        Engine(replace(config(tiny_model("qwen2")), attention="flash"))


@pytest.mark.parametrize("name", ["triton", "flash"])
def test_a_backend_for_cuda_is_refused_on_a_cpu(name: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choose, "_has_triton", lambda: True)
    monkeypatch.setattr(choose, "find_flash", lambda: FlashAttention2(FLASH_2))
    with pytest.raises(InvalidRequestError, match="CUDA"):
        check_backend(EngineConfig(attention=name), CPU)


@pytest.mark.usefixtures("has_flash")
def test_flash_is_refused_to_a_model_that_it_is_not_for() -> None:
    assert isinstance(made("flash"), FlashAttention)
    with pytest.raises(InvalidRequestError, match="windows"):
        made("flash", model(LayerSpec(4, 2, 16, 0.25, window=9)))
    with pytest.raises(InvalidRequestError, match="bfloat16"):
        made("flash", dtype=torch.float32)


@pytest.mark.parametrize(
    ("flash", "usual", "wins_from"),
    [
        ((1.0, 1.0), (2.0, 2.0), 64),
        ((3.0, 1.0), (2.0, 2.0), 1024),
        ((1.0, 2.0), (2.0, 2.0), None),
    ],
)
def test_flash_gets_the_steps_that_it_is_faster_at(
    flash: tuple[float, ...], usual: tuple[float, ...], wins_from: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((*flash, *usual))
    monkeypatch.setattr(choose, "time_step", lambda *_: next(times))
    pool = KVPool([(2, 16)], 40, 8, dtype=torch.bfloat16, device=CPU)
    rival = TorchAttention(pool, (), model().layers)
    chosen = _with_flash(rival, FlashAttention2(FLASH_2), EngineConfig(), pool, model())
    if wins_from is None:
        assert chosen is rival
    else:
        assert isinstance(chosen, BySize)
        assert chosen.few is rival
        assert chosen.many_from == wins_from


def test_the_newest_version_that_can_be_imported_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(package: Any, cute: Any) -> str | None:
        monkeypatch.setitem(sys.modules, "flash_attn", package)
        monkeypatch.setitem(sys.modules, "flash_attn.cute", cute)
        found = find_flash()
        return None if found is None else found.name

    assert names(None, None) is None
    assert names(FLASH_2, None) == "flash-attn 2.8.3"
    assert names(SimpleNamespace(cute=FLASH_4), FLASH_4) == "flash-attn-4"
    assert names(SimpleNamespace(), None) is None  # the folder is there, no version in it can be imported


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_flash_must_run_and_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_attention = pytest.importorskip("engine.attention.triton_attention")
    device = torch.device("cuda")
    pool = KVPool([(2, 64)], 640, 64, dtype=torch.bfloat16, device=device)
    frequencies = RopeFrequencies(tuple(0.7**i for i in range(32)), 1.0)
    decoder = cast(
        LanguageModel,
        SimpleNamespace(
            layers=(LayerSpec(8, 2, 64, 0.125),),
            rotary=(RotaryTable.of(frequencies, 80_000, device),),
            max_position=40_000,
            device=device,
            dtype=torch.bfloat16,
        ),
    )
    monkeypatch.setattr(choose, "find_flash", lambda: FlashAttention2(FLASH_2))
    monkeypatch.setattr(FlashAttention2, "over_runs", _broken)
    chosen = make_attention(EngineConfig(), pool, decoder)
    assert isinstance(chosen, triton_attention.TritonAttention)
    assert time_step(chosen, pool, decoder, 64) > 0
    assert pool.tokens_written == 0


def _broken(*_: object, **__: object) -> None:
    raise RuntimeError("no kernel image is available for execution on the device")
