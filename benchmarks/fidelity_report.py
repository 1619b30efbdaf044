"""The fidelity benchmark's figures as a table, as bars that hold or don't, and as a plot. Knows no engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.drawing import pyplot_for, save
from benchmarks.machine import in_words

NEAR_BAR, TOP1_BAR, EXACT_BAR, REPAIR_SHARE = 0.005, 0.96, 1e-5, 0.05
"""KL and top-1 that near KV must reach, KL that exact KV must, and the share of tokens that a repair may cost."""


@dataclass(frozen=True)
class Sample:
    """One question over one set after one change.

    Attributes:
        kl: mean over question and answer of KL(cold ‖ mode), nats.
        top1: share of positions at which both think the same token likeliest.
        same_answer: the greedy answer is the cold run's, token by token.
        computed: share of the chunks' tokens that were computed.
    """

    set: str
    case: str
    mode: str
    question: str
    kl: float
    top1: float
    same_answer: bool
    computed: float


@dataclass(frozen=True)
class Memory:
    """How likely a planted fact's value still is: probability of its tokens, when the fact is gone."""

    set: str
    change: str
    mode: str
    probability: float


@dataclass(frozen=True)
class Report:
    """All that was measured; its string is what the benchmark prints.

    `judged` names for some cases the mode that must meet the bar; if that is `repaired`, its cost has one, too.
    """

    model: str
    machine: dict[str, str | int | float]
    sets: tuple[str, ...]
    samples: tuple[Sample, ...]
    memories: tuple[Memory, ...]
    judged: dict[str, str]

    def __str__(self) -> str:
        lines = [f"Fidelity of {self.model} over {', '.join(self.sets)} ({in_words(self.machine)})", "", *self._table()]
        lines += ["", *self._memory_table(), "", *(self.missed or ["Every bar holds."])]
        return "\n".join(lines)

    def _cells(self) -> Iterator[tuple[str, str, list[Sample]]]:
        for case, mode in dict.fromkeys((sample.case, sample.mode) for sample in self.samples):
            yield case, mode, [s for s in self.samples if (s.case, s.mode) == (case, mode)]

    def _table(self) -> Iterator[str]:
        yield "| change | KV | computed | KL | worst KL | KL, across files | top-1 | same answer |"
        yield "|---|---|---|---|---|---|---|---|"
        for case, mode, samples in self._cells():
            cross = fmean(sample.kl for sample in samples if sample.question == "cross")
            yield (
                f"| {case} | {mode} | {fmean(s.computed for s in samples):.1%} | {fmean(s.kl for s in samples):.5f}"
                f" | {max(s.kl for s in samples):.5f} | {cross:.5f} | {fmean(s.top1 for s in samples):.3f}"
                f" | {sum(s.same_answer for s in samples)}/{len(samples)} |"
            )

    def _memory_table(self) -> Iterator[str]:
        yield "| a planted fact is | KV | mean probability of its value |"
        yield "|---|---|---|"
        for change, mode in dict.fromkeys((memory.change, memory.mode) for memory in self.memories):
            found = [m.probability for m in self.memories if (m.change, m.mode) == (change, mode)]
            yield f"| {change} | {mode} | {fmean(found):.2e} |"

    @property
    def missed(self) -> list[str]:
        """The bars that don't hold, in words."""
        return list(self._missed())

    def _missed(self) -> Iterator[str]:
        for case, mode, samples in self._cells():
            kl, top1 = fmean(s.kl for s in samples), fmean(s.top1 for s in samples)
            if mode == "exact" and max(s.kl for s in samples) > EXACT_BAR:
                yield f"MISSED: {case}, exact: KL is {max(s.kl for s in samples):.1e}, not 0 within float error"
            judged = mode == self.judged.get(case)
            if judged and (kl > NEAR_BAR or top1 < TOP1_BAR):
                yield f"MISSED: {case}, {mode}: KL {kl:.4f} (≤ {NEAR_BAR}), top-1 {top1:.3f} (≥ {TOP1_BAR})"
            if judged and mode == "repaired" and fmean(s.computed for s in samples) > REPAIR_SHARE:
                yield f"MISSED: {case}: its repair costs {fmean(s.computed for s in samples):.1%} of the tokens"

    def plot(self, path: Path) -> None:
        """Mean KL of each case and mode as horizontal bars on a logarithmic axis; says so if matplotlib is missing."""
        pyplot = pyplot_for(path)
        if pyplot is None:
            return
        cells = [(c, m, fmean(s.kl for s in found)) for c, m, found in self._cells() if m != "exact"]
        cases, modes = list(dict.fromkeys(c for c, _, _ in cells)), list(dict.fromkeys(m for _, m, _ in cells))
        figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(cases) + 1.5), layout="constrained")
        height = 0.8 / len(modes)
        for number, mode in enumerate(modes):
            values = [kl for case in cases for c, m, kl in cells if (c, m) == (case, mode)]
            axes.barh([place + number * height for place in range(len(cases))], values, height, label=mode)
        axes.set_yticks([place + 0.4 - height / 2 for place in range(len(cases))], cases)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.axvline(NEAR_BAR, color="grey", linestyle="--", label=f"bar: {NEAR_BAR}")
        axes.set_xlabel("KL divergence from a cold run, nats per token")
        axes.set_title(self.model)
        axes.legend()
        save(pyplot, figure, path)
