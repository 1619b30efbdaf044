"""Steps by graphs give what steps without them give, and whatever becomes of the context replays the same graphs.

Captured on CUDA; elsewhere a graph is the computation itself, done again over the same buffers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton")

import engine.engine
from engine import Engine, SamplingParams
from engine.attention.triton_attention import TritonAttention
from engine.model import LoadedModel, load_model
from engine.models.decoder import Decoder
from engine.runtime import graphs
from engine.runtime.graphs import Compute, CudaCapture, Graphs
from engine.runtime.runner import Runner
from tests.engine.oracle import finish
from tests.engine.test_parity import config
from tests.tiny_models import tiny_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# interpreted, large steps take long and say nothing that small ones don't
SIZES = graphs.SIZES if DEVICE == "cuda" else (1, 2, 12, 16)
FILES = {"a.py": "x = 1\n", "b.py": "y = x + 2\n"}
QUESTION = "y?"


class CountedCapture:
    """Captures, and counts captures and replays by the number of places."""

    def __init__(self, device: torch.device) -> None:
        self.capture = CudaCapture(device) if device.type == "cuda" else computed
        self.captures = 0
        self.replays: Counter[int] = Counter()

    def __call__(self, compute: Compute) -> Compute:
        self.captures += 1
        replay = self.capture(compute)

        def counted() -> torch.Tensor:
            logits = replay()
            self.replays[len(logits)] += 1
            return logits

        return counted


def computed(compute: Compute) -> Compute:
    """No capture, but like one it computes what it is given with the buffers as they are."""
    compute()
    return compute


@pytest.fixture
def model() -> LoadedModel:
    """A tiny model, which attends by plain torch."""
    return load_model(config(tiny_model("qwen3"), device=DEVICE, kv_cache_tokens=2048, block_size=4, attention="torch"))


def by_kernels(model: LoadedModel) -> LoadedModel:
    attention = TritonAttention(model.pool, model.decoder.rotary, model.decoder.layers, programs=4)
    return dataclasses.replace(model, attention=attention)


def use_graphs(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> CountedCapture:
    """Engines made from now on compute small steps by graphs."""
    capture = CountedCapture(model.device)
    assert isinstance(model.decoder, Decoder)
    assert isinstance(model.attention, TritonAttention)
    steps = Graphs(model.decoder, model.attention, capture, SIZES)
    steps.prepare(lambda share: None)
    runner = Runner(model.decoder, model.attention, model.device, steps)
    monkeypatch.setattr(engine.engine, "make_runner", lambda *_: runner)
    return capture


def history(model: LoadedModel) -> list[str]:
    """Answers while files are loaded, switched, moved, composed and edited; the first one fills several blocks."""
    answers = []
    with Engine(config(tiny_model("qwen3"), device=DEVICE, kv_cache_tokens=2048, block_size=4), model=model) as running:
        context = running.context()
        for source, text in FILES.items():
            context.add_chunk(text, source=source)
        names = list(FILES)
        changes = (
            lambda: None,
            lambda: context.deactivate(names[0]),
            lambda: context.activate(names[0]),
            lambda: context.move(names[0], -1),
            lambda: context.compose(names, "both"),
            lambda: context.add_chunk(FILES[names[1]] + "\nx = 1\n", source=names[1]),
        )
        for index, change in enumerate(changes):
            change()
            tokens = 12 if index == 0 else 2
            answers.append(finish(context.chat(QUESTION, SamplingParams(max_tokens=tokens), fidelity="exact")).text)
        streams = [running.chat([{"role": "user", "content": text}], SamplingParams(max_tokens=3)) for text in "ab"]
        answers += [finish(stream).text for stream in streams]
        running.check_integrity()
    return answers


def test_a_history_replays_the_same_graphs_and_gets_the_same_answers(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = history(model)
    model = by_kernels(model)
    capture = use_graphs(model, monkeypatch)
    captures = capture.captures
    assert history(model) == expected
    assert capture.captures == captures
    assert capture.replays[1] > 10
