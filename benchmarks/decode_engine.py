"""Decoding by this engine: over one chunk, over many, and over many of which some are left out and the rest moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.decode_report import FILTERED, MANY, ONE, Row
from benchmarks.device_work import busy_seconds
from benchmarks.warm_context import CHUNKS, DROPPED, Texts, ask, fresh_contexts, open_chunks, open_filtered, warm
from engine import Engine
from engine.config import EngineConfig
from engine.context import Context
from engine.model import LoadedModel

ENGINE = "ctx-lsp"
_WARM_UP = 12
_ROUNDS = 2


@dataclass(frozen=True)
class Layout:
    """How a context of so many tokens is made, and how many answers are then decoded at once.

    Attributes:
        open: makes it, warm; tells how many tokens of a cold prompt were computed in a second, if there was such.
    """

    name: str
    answers: int
    open: Callable[[Context, Texts, int], float | None]


def layouts(at_once: int) -> tuple[Layout, ...]:
    """All of them; the last decodes `at_once` answers together."""
    return (
        Layout(ONE, 1, lambda context, texts, tokens: _open_asked(context, texts, tokens, 1)),
        Layout(MANY, 1, lambda context, texts, tokens: _open_asked(context, texts, tokens, CHUNKS)),
        Layout(FILTERED, 1, _open_filtered),
        Layout(MANY, at_once, lambda context, texts, tokens: _open_asked(context, texts, tokens, CHUNKS)),
    )


def _open_asked(context: Context, texts: Texts, tokens: int, chunks: int) -> float:
    """By a question that comes before any of it was computed, as nothing computes as quickly as what is waited for."""
    open_chunks(context, texts, tokens, chunks)
    first = ask(context, 1, "exact")
    warm(context)
    return first.done.usage.prefilled_tokens / first.first


def _open_filtered(context: Context, texts: Texts, tokens: int) -> None:
    open_filtered(context, texts, tokens, CHUNKS, DROPPED)


def with_room(config: EngineConfig, contexts: Sequence[int]) -> EngineConfig:
    """The config with a KV pool for the longest context with what is left out of it, twice."""
    return replace(config, kv_cache_tokens=config.kv_cache_tokens or 3 * max(contexts) + 64 * 1024)


def decode_rows(
    model: LoadedModel,
    config: EngineConfig,
    texts: Texts,
    contexts: Sequence[int],
    tokens: int,
    at_once: int,
    profile: bool,
) -> list[Row]:
    """A row per context length and layout; `tokens` are decoded for each, twice, and the quicker one counts."""
    rows = []
    with Engine(config, model=model) as engine:
        fresh = fresh_contexts(engine)
        _open_asked(next(fresh), texts, min(contexts), 1)
        for length in contexts:
            for layout in layouts(at_once):
                context = next(fresh)
                prefill = layout.open(context, texts, length)
                row = _row(context, layout, length, tokens, model.device if profile else None)
                rows.append(replace(row, prefill=prefill))
    return rows


def _row(context: Context, layout: Layout, length: int, tokens: int, profiled: torch.device | None) -> Row:
    ask(context, _WARM_UP, "instant", answers=layout.answers)
    rounds = [ask(context, tokens, "instant", answers=layout.answers) for _ in range(_ROUNDS)]
    best = min(rounds, key=lambda timed: timed.gap)
    busy = None
    if profiled is not None:
        busy = busy_seconds(profiled, lambda: ask(context, tokens, "instant", answers=layout.answers))
    return Row(
        context=length,
        side=ENGINE,
        layout=layout.name,
        answers=layout.answers,
        per_token=best.gap,
        mean=best.mean,
        prompt=best.done.usage.prompt_tokens,
        busy=busy and busy / tokens,
    )
