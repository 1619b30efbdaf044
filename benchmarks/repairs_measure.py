"""Carries repairs out on the KV of one case and compares each with a cold run. Knows nothing of tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.repairs_cases import Case
from benchmarks.repairs_cold import Asked, Colds
from benchmarks.repairs_decoder import KV
from benchmarks.repairs_ways import Repair, Sight, first

KEPT_OUT = 4
"""First tokens of a file whose change says little of the others': many queries rest on them."""


@dataclass(frozen=True)
class Sample:
    """One question over the KV of one case, repaired in one way.

    Attributes:
        cost: % of all tokens that the repair computed.
        kl, kl_answer: mean KL(cold ‖ repaired) in nats over question and answer, and over the answer.
        top1: share of positions at which both think the same token likeliest.
        same: all of the answer's tokens are likeliest.
    """

    set: str
    case: str
    question: str
    repair: str
    cost: float
    kl: float
    kl_answer: float
    top1: float
    same: bool


class Measured:
    """A case's KV as it is put together and nothing repaired, and what a cold run says instead.

    Attributes:
        none: that KV.
        sights: what can be known when each of the set's questions is asked.
    """

    def __init__(self, colds: Colds, case: Case) -> None:
        self.set = colds.loaded.set.package
        self.case = case
        self._colds = colds
        self._cold = colds.cold(case.pieces)
        self.asked = [colds.ask(self._cold, kind, text) for kind, text in colds.loaded.questions]
        self.none = self._computed(self._moved(), case.computed)
        self.sights = [self._sight(asked) for asked in self.asked]

    def _moved(self) -> KV:
        """KV from where the case takes it, turned to its new place."""
        kv = self._colds.empty()
        for run in self.case.moved:
            old, new = slice(run.first, run.first + run.length), slice(run.at, run.at + run.length)
            by = torch.full((run.length,), run.at - run.first, device=kv.keys.device)
            kv.keys[:, :, new] = self._colds.decoder.rotate(run.source.kv.keys[:, :, old], by)
            kv.values[:, :, new] = run.source.kv.values[:, :, old]
        return kv

    def _computed(self, kv: KV, slots: Tensor) -> KV:
        """The KV, with tokens computed anew at these slots, all in one pass."""
        if len(slots):
            ids = self._colds.tensor([self.case.ids[slot] for slot in slots.tolist()])
            self._colds.decoder.run(ids, slots.to(ids.device), kv)
        return kv

    def _sight(self, asked: Asked) -> Sight:
        count = len(self.case.ids)
        keys = (self.none.keys[1, :, :count] - self._cold.kv.keys[1, :, :count]).square().sum((0, 2)).cpu()
        mass = self._colds.mass(self.none, count, asked)
        return Sight(self.case, self._colds.tokenizer.decode, keys, self.deviation(self._cold.kv), mass)

    def deviation(self, other: KV) -> Tensor:
        """Float32 [tokens] on the CPU: how far values are from the other's, relative to these, mean over layers."""
        count = len(self.case.ids)
        mine, others = self.none.values[:, :, :count].float(), other.values[:, :, :count].float()
        size = others.square().sum((1, 3)).sqrt().clamp_min(1e-9)
        return ((mine - others).square().sum((1, 3)).sqrt() / size).mean(0).cpu()

    def repaired(self, repair: Repair, sight: Sight) -> KV:
        """The KV that the repair leaves."""
        slots = repair.choose(sight)
        if repair.bias is not None:
            return self.none
        if repair.asked:
            return self._computed(self.none.copy(), slots)
        kv = self._computed(self._moved(), torch.cat((slots, self.case.computed)).sort().values)
        return self._shifted(kv, slots) if repair.shift else kv

    def _shifted(self, kv: KV, slots: Tensor) -> KV:
        out, slots = kv.copy(), slots.to(kv.values.device)
        for stale in self.case.stale:
            run = torch.arange(stale.first, stale.end, device=kv.values.device)
            done = run[torch.isin(run, slots)]
            learned = done[done >= stale.first + KEPT_OUT] if len(done) > 2 * KEPT_OUT else done
            others = run[~torch.isin(run, slots)]
            if len(learned) and len(others):
                change = (kv.values[:, :, learned] - self.none.values[:, :, learned]).mean(2, keepdim=True)
                out.values[:, :, others] += change
        return out

    def first_deviation(self, count: int) -> Tensor:
        """By how much computing the first tokens of each stale file alone changes them; zero elsewhere."""
        return self.deviation(self.repaired(Repair("", first(count)), self.sights[0]))

    def samples(self, repairs: Sequence[Repair]) -> Iterator[Sample]:
        """All repairs that this case can have, for each question."""
        for repair in repairs:
            if repair.paid and not self.case.lost.any():
                continue
            kv = None if repair.asked else self.repaired(repair, self.sights[0])
            for asked, sight in zip(self.asked, self.sights, strict=True):
                sample = self._compare(kv or self.repaired(repair, sight), asked, self._bias(repair, sight))
                cost = 0 if repair.bias is not None else 100 * len(repair.choose(sight)) / len(self.case.ids)
                yield replace(sample, repair=repair.name, cost=cost)

    def _bias(self, repair: Repair, sight: Sight) -> Tensor | None:
        if repair.bias is None:
            return None
        bias = torch.zeros(len(self.case.ids))
        bias[repair.choose(sight)] = repair.bias
        return bias.to(self._colds.decoder.device)

    def _compare(self, kv: KV, asked: Asked, bias: Tensor | None) -> Sample:
        mine = self._colds.log_probs(kv, len(self.case.ids), asked.ids, asked.question, bias)
        right, answer = asked.log_probs, asked.answer - asked.question
        kl = (right.exp() * (right - mine)).sum(-1).clamp_min(0)
        same = right.argmax(-1) == mine.argmax(-1)
        return Sample(
            set=self.set,
            case=self.case.name,
            question=asked.kind,
            repair="",
            cost=0,
            kl=float(kl.mean()),
            kl_answer=float(kl[answer:].mean()),
            top1=float(same.float().mean()),
            same=bool(same[answer:].all()),
        )
