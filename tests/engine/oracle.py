"""What the engine is measured against: transformers' own model on the same token ids, without any reuse."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from engine import Engine
from engine.chat_stream import ChatStream
from engine.types import ChatDelta, ChatDone, ChatEvent


class Oracle:
    """A model of a folder in float32 with transformers' plain attention."""

    def __init__(self, folder: Path) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits behind each token, float32 [len(ids), vocab]."""
        logits: Tensor = self.model(torch.tensor([list(ids)])).logits[0]
        return logits

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], count: int, stop: frozenset[int] = frozenset()) -> tuple[list[int], Tensor]:
        """The next tokens, and the logits [n, vocab] each was the maximum of."""
        cache = DynamicCache(config=self.model.config)
        step, tokens, rows = torch.tensor([list(ids)]), list[int](), []
        while len(tokens) < count and not (tokens and tokens[-1] in stop):
            rows.append(self.model(step, past_key_values=cache, use_cache=True).logits[0, -1])
            tokens.append(int(rows[-1].argmax()))
            step = torch.tensor([[tokens[-1]]])
        return tokens, torch.stack(rows)


@functools.cache
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)


@contextmanager
def recorded_logits(engine: Engine) -> Iterator[list[Tensor]]:
    """The logits of every step that samples while the block runs, one float32 tensor [n, vocab] each."""
    sampler = engine._worker._sampler
    recorded: list[Tensor] = []
    original = sampler.sample

    def sample(logits: Tensor, rows: Sequence) -> list[int]:  # type: ignore[type-arg]
        recorded.append(logits.clone())
        return original(logits, rows)

    sampler.sample = sample  # type: ignore[method-assign]
    try:
        yield recorded
    finally:
        sampler.sample = original  # type: ignore[method-assign]


def finish(stream: ChatStream, read: Sequence[ChatEvent] = ()) -> ChatDone:
    """Read a stream to its end, checking that its deltas, those `read` already included, add up to its text."""
    text = "".join(event.text for event in read)
    for event in stream:
        if isinstance(event, ChatDelta):
            assert event.text
            text += event.text
        else:
            assert event.text == text
            return event
    raise AssertionError("the stream ended without its last event")
