"""Sampler: logits to token ids, and `SamplingState`, what choosing one answer's tokens needs to remember.

Knows nothing of models, text or scheduling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

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
        prompt: token ids of the prompt, looked at only for the repetition penalty.
        device: where the logits will be.
    """

    def __init__(self, params: SamplingParams, prompt: Iterable[int], device: torch.device | str = "cpu") -> None:
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

    @property
    def takes_likeliest(self) -> bool:
        """The argmax of the logits is chosen, as they are."""
        return self.params.temperature == 0 and not self.penalizes

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

    def sample(
        self, logits: Tensor, rows: Sequence[SamplingState], drafts: Sequence[Sequence[int]] | None = None
    ) -> list[list[int]]:
        """Draw the next token for each row, and while it is what the row's draft says, the one behind it.

        So every token is drawn from what it would be drawn from without a draft, with the same random number. Greedy
        rows take the exact argmax. The tokens are counted as seen in the states.

        Args:
            logits: float32 [len(rows) + Σ len(draft), vocab], left as they are: for each row those behind its last
                token and behind each of its draft, in this order.
            rows: their states.
            drafts: for each row tokens that may come next; None for none at all.

        Returns:
            For each row 1 to 1 + len(draft) tokens, all but the last as the draft says.
        """
        drafts = drafts or [()] * len(rows)
        firsts = [0, *accumulate(1 + len(draft) for draft in drafts)][: len(rows)]
        greedy = _argmax(logits)
        chosen = [
            greedy[first] if state.takes_likeliest else self._choose(logits[first], state)
            for first, state in zip(firsts, rows, strict=True)
        ]
        tokens: list[int] = torch.cat([greedy, *(token[None] for token in chosen)]).tolist()
        likeliest, heads = tokens[: len(greedy)], tokens[len(greedy) :]
        return [
            self._follow(head, draft, logits[first:], likeliest[first:], state)
            for head, draft, first, state in zip(heads, drafts, firsts, rows, strict=True)
        ]

    def _follow(
        self, head: int, draft: Sequence[int], logits: Tensor, likeliest: Sequence[int], state: SamplingState
    ) -> list[int]:
        """The tokens of a row whose first is `head`; `logits` and `likeliest` begin with the row's."""
        tokens = [head]
        state.push(head)
        for place, drafted in enumerate(draft, start=1):
            if tokens[-1] != drafted:
                break
            tokens.append(likeliest[place] if state.takes_likeliest else int(self._choose(logits[place], state)))
            state.push(tokens[-1])
        return tokens

    def _choose(self, logits: Tensor, state: SamplingState) -> Tensor:
        if state.params.temperature == 0:
            return state.penalize(logits).argmax()
        return draw(kept(state.penalize(logits), state.params), state.uniform())


def _argmax(logits: Tensor) -> Tensor:
    """The argmax of each row, int64.

    On a CPU not by torch: it would take OpenMP's threads, which then wait for more to do and keep those of the next
    step from their cores, so that it took twice as long.
    """
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


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
