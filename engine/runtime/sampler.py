"""Sampler: logits to token ids, and `SamplingState`, what choosing one answer's tokens needs to remember.

Knows nothing of models, text or scheduling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.config import SamplingParams

_LIKELIEST = 1024
"""Tokens among which top-p first looks for its set; sorting a whole vocabulary takes ten times as long on a CPU."""

_COLDEST = 1e-6
"""Temperatures below are taken as this one: there it is greedy already, and float32 does not divide by much less."""


class SamplingState:
    """One answer's random numbers and the tokens it has seen.

    Invariant: the random numbers depend on the seed and on how many tokens were drawn, on nothing else; so an answer is
    the same in whatever batch it runs.

    Args:
        params: how to choose.
        prompt: token ids of the prompt, counted by the repetition penalty.
        device: where the logits will be.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.params = params
        self._device = torch.device(device)
        self._seen_ids = set(prompt) if self.penalizes else set()
        self._seen = torch.tensor(sorted(self._seen_ids), dtype=torch.long, device=self._device)
        self._generator = torch.Generator(self._device)
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % 2**63)

    @property
    def penalizes(self) -> bool:
        return self.params.repetition_penalty != 1.0

    def push(self, token: int) -> None:
        """Count a token of the answer as seen."""
        if self.penalizes and token not in self._seen_ids:
            self._seen_ids.add(token)
            self._seen = torch.cat([self._seen, self._seen.new_tensor([token])])

    def penalize(self, logits: Tensor) -> Tensor:
        """`logits` [vocab] with seen tokens made less likely: negative ones times, others divided by the penalty."""
        if not self.penalizes:
            return logits
        penalty = self.params.repetition_penalty
        seen = logits[self._seen]
        return logits.index_copy(0, self._seen, torch.where(seen < 0, seen * penalty, seen / penalty))

    def uniform(self) -> Tensor:
        """The next random number in [0, 1), float64 [1]."""
        return torch.rand(1, generator=self._generator, dtype=torch.float64, device=self._device)


class Sampler:
    """Chooses one token per row of logits."""

    def sample(self, logits: Tensor, rows: Sequence[SamplingState]) -> list[int]:
        """Draw a token for each row; greedy rows take the exact argmax.

        Args:
            logits: float32 [len(rows), vocab], left as they are.
            rows: their states; tokens are counted as seen by `SamplingState.push`, not here.
        """
        greedy = logits.argmax(dim=-1)
        chosen = [self._choose(logits[index], state, greedy[index]) for index, state in enumerate(rows)]
        tokens: list[int] = torch.stack(chosen).tolist() if chosen else []
        return tokens

    def _choose(self, logits: Tensor, state: SamplingState, greedy: Tensor) -> Tensor:
        if state.params.temperature == 0:
            return state.penalize(logits).argmax() if state.penalizes else greedy
        return draw(kept(state.penalize(logits), state.params), state.uniform())


def kept(logits: Tensor, params: SamplingParams) -> Tensor:
    """Logits [vocab] over the temperature, and −inf for the tokens that top-k, top-p and min-p (in this order) drop.

    Each drops what lies below a threshold, so tokens of equal logits stay or go together. The likeliest always stays.
    """
    scaled = (logits - logits.max()) / max(params.temperature, _COLDEST)
    if 0 < params.top_k < len(scaled):
        scaled = _from(scaled, scaled.topk(params.top_k).values[-1])
    if params.top_p < 1:
        scaled = _from(scaled, _nucleus_floor(scaled, params.top_p))
    if params.min_p > 0:
        scaled = _from(scaled, math.log(params.min_p))
    return scaled


def _from(logits: Tensor, floor: Tensor | float) -> Tensor:
    return logits.masked_fill(logits < floor, -math.inf)


def _nucleus_floor(logits: Tensor, top_p: float) -> Tensor:
    """The lowest logit in the smallest set of likeliest tokens whose probability reaches `top_p`."""
    total = logits.logsumexp(dim=0)
    for size in (min(_LIKELIEST, len(logits)), len(logits)):
        likeliest = logits.topk(size).values
        reached = (likeliest - total).exp().cumsum(dim=0, dtype=torch.float64)
        if reached[-1] >= top_p:
            break
    last = torch.searchsorted(reached, top_p).clamp(max=size - 1)
    return likeliest[last]


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The token, int64 [], at which the cumulated probability passes `uniform`, float64 [1] below 1."""
    reached = logits.softmax(dim=0).cumsum(dim=0, dtype=torch.float64)
    return torch.searchsorted(reached, uniform * reached[-1], right=True)[0]
