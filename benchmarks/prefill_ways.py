"""Ways to compute a prompt's new tokens, timed in turn: cold or behind a warm prefix, here and by transformers.

Every sample is new text, so none finds what one before it has computed. Knows nothing of tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache

from benchmarks.clock import timed
from benchmarks.decode_peers import fill
from benchmarks.decode_report import FILTERED, MANY, ONE
from benchmarks.prefill_report import ENGINE, PEER, Row
from benchmarks.warm_context import CHUNKS, DROPPED, Texts, ask, open_chunks, open_filtered, warm
from engine import Engine
from engine.context import Context
from engine.types import Usage

_SHARED = 128
"""Most tokens that prompts have in common: the head, and the frame of the first chunk."""

Sample = Callable[[], tuple[float, int]]
"""Computes some prompt; seconds to its first token, and how many tokens were computed."""


@dataclass(frozen=True)
class Way:
    """Who computes, and from what: `layout` says in which chunks the prompt or its prefix comes."""

    side: str
    layout: str
    sample: Sample


def measure(ways: Sequence[Way], tokens: int, before: int, repeat: int) -> list[Row]:
    """A row per way; the first sample of each does not count.

    They take turns, so that all see the same of whatever else the machine does.
    """
    rounds = [[way.sample() for way in ways] for _ in range(1 + repeat)][1:]
    rows = []
    for way, samples in zip(ways, zip(*rounds, strict=True), strict=True):
        seconds, computed = zip(*samples, strict=True)
        rows.append(Row(tokens, before, way.side, way.layout, median(seconds), computed[-1], seconds))
    return rows


def cold_ways(engine: Engine, peer: Any, texts: Texts, tokens: int) -> list[Way]:
    """`tokens` tokens behind nothing."""

    def cold(chunks: int) -> tuple[float, int]:
        context = engine.context("cold", order="fixed")
        open_chunks(context, texts, tokens, chunks)
        answer = ask(context, 1, "exact")
        engine.drop_context(context.id)
        return answer.first, _computed(answer.done.usage, answer.done.usage.prompt_tokens)

    return [
        Way(ENGINE, ONE, lambda: cold(1)),
        Way(ENGINE, MANY, lambda: cold(CHUNKS)),
        Way(PEER, "one pass", _one_pass(peer, texts, tokens, 0)),
    ]


def ways_behind(engine: Engine, peer: Any, texts: Texts, tokens: int, before: int) -> list[Way]:
    """`tokens` tokens of one more file behind a prefix of `before`, which is made warm here."""
    one, many, moved = (engine.context(name, order="fixed") for name in ("one", "many", "moved"))
    for context, chunks in ((one, 1), (many, CHUNKS)):
        open_chunks(context, texts, before, chunks)
        warm(context)
    open_filtered(moved, texts, before, CHUNKS, DROPPED)

    def behind(context: Context) -> tuple[float, int]:
        context.add_chunk(texts.cut(tokens), source="new.py")
        # what has moved is near, and stays so: only the new tokens are to be computed
        answer = ask(context, 1, "instant")
        return answer.first, _computed(answer.done.usage, tokens)

    # computes what is repaired of near files, once; how much of them is repaired depends on what stands behind them
    for _ in range(2):
        moved.add_chunk(texts.cut(tokens), source="new.py")
        ask(moved, 1, "instant")
    return [
        Way(ENGINE, ONE, lambda: behind(one)),
        Way(ENGINE, MANY, lambda: behind(many)),
        Way(ENGINE, FILTERED, lambda: behind(moved)),
        Way(PEER, "DynamicCache", _one_pass(peer, texts, tokens, before)),
    ]


def _computed(usage: Usage, expected: int) -> int:
    """Tokens that were computed; ValueError if that is far from what should have been."""
    if abs(usage.prefilled_tokens - expected) > _SHARED:
        raise ValueError(f"{usage.prefilled_tokens} tokens were computed of {usage.prompt_tokens}, not {expected}")
    return usage.prefilled_tokens


def _one_pass(peer: Any, texts: Texts, tokens: int, before: int) -> Sample:
    """One pass with SDPA over token ids, behind random KV of `before` tokens; only the last token's logits."""
    ids = torch.tensor([texts.ids(tokens)], device=peer.device)
    cache = DynamicCache(config=peer.config)
    fill(cache, peer, before)

    @torch.inference_mode()
    def compute() -> int:
        return int(peer(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].argmax())

    def sample() -> tuple[float, int]:
        seconds = timed(peer.device, compute)
        cache.crop(-tokens)
        return seconds, tokens

    return sample
