"""Drafts that prove right as often as a script says, for models whose answers repeat nothing.

All is computed as ever; only which tokens come out is the script's. Reaches into the engine, as only a measurement may.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from torch import Tensor

from engine import Engine
from engine.hashing import TokenArray, token_array
from engine.runtime.draft import Drafter
from engine.runtime.sampler import SamplingState


@contextmanager
def scripted_drafts(engine: Engine, right: float, seed: int) -> Iterator[None]:
    """While the block runs answers of `engine` always have a draft; each token of it is right with this probability."""
    sampler = engine._worker._sampler
    said = engine._state.model.tokenizer.encode("a", special=False)[0]
    original, draw = sampler.sample, random.Random(seed)

    def draft(drafter: Drafter, answer: Sequence[int], count: int) -> TokenArray:
        return token_array([said] * min(count, drafter.length))

    def accepted(draft: Sequence[int]) -> int:
        return next((place for place in range(len(draft)) if draw.random() >= right), len(draft))

    def sample(logits: Tensor, rows: Sequence[SamplingState], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        original(logits, rows, drafts)
        return [[said] * (accepted(draft) + 1) for draft in drafts]

    with patch.object(Drafter, "draft", draft), patch.object(sampler, "sample", sample):
        yield
