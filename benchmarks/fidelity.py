"""How true answers over KV that isn't exact are: against a cold run, after edits, drops, inserts and moves.

Over real source files, with questions about one file and across two: KL divergence and top-1 agreement of the next
token over question and answer, and whether the greedy answer is the same. `python -m benchmarks.fidelity --help`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.divergence import Divergence
from benchmarks.fidelity_cases import CASES, Case
from benchmarks.fidelity_memory import remember
from benchmarks.fidelity_report import Report, Sample
from benchmarks.fidelity_sets import Loaded, load_sets
from benchmarks.options import add_engine_options, engine_config, positive
from benchmarks.reader import Mode, Reader, cost
from engine.chunk_kv import ChunkKV
from engine.config import EngineConfig
from engine.errors import EngineError
from engine.model import LoadedModel, load_model
from engine.repair import DEFAULT_REPAIR, Repair
from engine.runtime.prefill import Prefill

MODES = {
    "near": Mode(Repair(share=0, seam=0)),
    "repaired": Mode(DEFAULT_REPAIR, foreign_tokens=64),
    "made safe": Mode(DEFAULT_REPAIR, foreign_tokens=None),
    "exact": None,
}
POOL_TOKENS = 100_000


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question's token ids with a cold run's answer behind them, and the cold run's logits, float32 [n, vocab]."""

    kind: str
    ids: Sequence[int]
    answer: int
    logits: Tensor


def run(model: LoadedModel, config: EngineConfig, *, sets: int, answer_tokens: int, cases: Sequence[Case]) -> Report:
    """Every case on every set, in every way of having KV."""

    def count(text: str) -> int:
        return len(model.tokenizer.encode(text, special=False))

    reader = Reader(model, config.block_size, config.slice_tokens)
    found = load_sets(count, sets)
    samples: list[Sample] = []
    for loaded in found:
        for case in cases:
            samples += _measure(reader, loaded, case, answer_tokens)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return Report(
        model=config.model,
        machine=machine.describe(model.device) | {"dtype": str(model.dtype).removeprefix("torch.")},
        sets=tuple(loaded.set.package for loaded in found),
        samples=tuple(samples),
        memories=tuple(remember(reader, found, MODES)),
        judged={case.name: case.judged for case in cases if case.judged is not None},
    )


def _measure(reader: Reader, loaded: Loaded, case: Case, answer_tokens: int) -> Iterator[Sample]:
    name = f"{loaded.set.package} {case.name}"
    cold = _prefill(reader, f"{name} cold", loaded, case, {}, None)
    questions = [_ask_cold(reader, cold, kind, text, answer_tokens) for kind, text in loaded.questions]
    cold.close()
    for label, mode in MODES.items():
        world = f"{name} {label}"
        prefill = _prefill(reader, world, loaded, case, case.kv_before(reader, world, loaded), mode)
        for asked in questions:
            yield _compare(reader, prefill, loaded, case, label, asked)
        prefill.close()


def _prefill(
    reader: Reader, world: str, loaded: Loaded, case: Case, kv: dict[str, ChunkKV], mode: Mode | None
) -> Prefill:
    """The KV after the change, where `kv` says what was there before it."""
    manager = reader.context(world, case.files_before(loaded), kv)
    case.change(manager, loaded)
    return reader.compute(manager, mode)


def _ask_cold(reader: Reader, cold: Prefill, kind: str, text: str, answer_tokens: int) -> Asked:
    tail = reader.tail(text)
    answer = reader.greedy(cold, tail, answer_tokens)
    ids = [*tail, *answer]
    return Asked(kind, ids, len(answer), reader.logits(cold, ids))


def _compare(reader: Reader, prefill: Prefill, loaded: Loaded, case: Case, mode: str, asked: Asked) -> Sample:
    found = Divergence.of(reader.logits(prefill, asked.ids), asked.logits, asked.answer)
    return Sample(
        set=loaded.set.package,
        case=case.name,
        mode=mode,
        question=asked.kind,
        kl=found.kl,
        top1=found.top1,
        same_answer=found.same_answer,
        computed=cost(prefill),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 1 if a bar is missed, 2 if it can't run."""
    given = _parser().parse_args(arguments)
    config = dataclasses.replace(engine_config(given), kv_cache_tokens=POOL_TOKENS)
    cases = [case for case in CASES if not given.cases or any(word in case.name for word in given.cases)]
    try:
        with torch.inference_mode():
            model = load_model(config)
            report = run(model, config, sets=given.sets, answer_tokens=given.answer_tokens, cases=cases)
    except EngineError as error:
        print(f"benchmarks.fidelity: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(dataclasses.asdict(report), indent=1, default=list) + "\n", encoding="utf-8")
    if given.plot:
        report.plot(given.plot)
    return 1 if report.missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity", description=__doc__)
    add_engine_options(parser, dtype="float32")
    parser.add_argument("--sets", type=positive, default=100, help="sets of files, at most")
    parser.add_argument("--answer-tokens", type=positive, default=40)
    parser.add_argument("--cases", nargs="+", help="only cases whose name holds one of these words")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--plot", type=Path, help="draw the KL of each case to this file (.svg, .png)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
