"""What the engine is measured against: transformers' own model on the same token ids, without any reuse."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from engine import Engine, SamplingParams
from engine.chat_stream import ChatStream
from engine.runtime.sampler import SamplingState
from engine.types import ChatDelta, ChatDone, ChatEvent

TOLERANCE = 1e-3


class Oracle:
    """A model of a folder with transformers' plain attention; `options` are for transformers' loading."""

    def __init__(
        self, folder: Path, *, dtype: torch.dtype | str = torch.float32, device: str = "cpu", **options: Any
    ) -> None:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            attn_implementation="eager",
            local_files_only=True,
            **options,
        )
        self.model = model.eval()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits behind each token, float32 [len(ids), vocab]."""
        logits: Tensor = self.model(torch.tensor([list(ids)], device=self.model.device)).logits[0]
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
def recorded_logits(engine: Engine, params: SamplingParams) -> Iterator[list[Tensor]]:
    """The logits that tokens are sampled from with these very `params`, one float32 tensor [vocab] per token.

    An answer just cancelled may still be in the step under way, so it matters whose logits they are.
    """
    sampler = engine._worker._sampler
    recorded: list[Tensor] = []
    original = sampler.sample

    def sample(logits: Tensor, rows: Sequence[SamplingState], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        sampled = original(logits, rows, drafts)
        first = 0
        for row, draft, tokens in zip(rows, drafts, sampled, strict=True):
            if row.params is params:
                recorded.extend(logits[first : first + len(tokens)].clone())
            first += 1 + len(draft)
        return sampled

    sampler.sample = sample  # type: ignore[method-assign, assignment]
    try:
        yield recorded
    finally:
        sampler.sample = original  # type: ignore[method-assign]


def assert_greedy(recorded: Sequence[Tensor], tokens: Sequence[int], logits: Tensor) -> None:
    """`recorded` chose the oracle's `tokens` from the oracle's `logits` [n, vocab].

    Where the oracle's two best are closer than the tolerance either may win, and nothing is compared from there on.
    """
    actual = torch.stack(list(recorded)).to(logits.device)
    assert len(actual) == len(tokens)
    for mine, theirs, token in zip(actual, logits, tokens, strict=True):
        torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)
        if int(mine.argmax()) != token:
            best, second = theirs.topk(2).values
            assert best - second < 2 * TOLERANCE
            return


def finish(stream: ChatStream, read: Sequence[ChatEvent] = ()) -> ChatDone:
    """Read a stream to its end, checking that its deltas, those `read` already included, add up to its texts."""
    texts = {"answer": "", "reasoning": ""}
    for event in itertools.chain(read, stream):
        if isinstance(event, ChatDelta):
            assert event.text
            texts[event.kind] += event.text
        else:
            assert {"answer": event.text, "reasoning": event.reasoning} == texts
            return event
    raise AssertionError("the stream ended without its last event")
