"""What near KV is best repaired with: every repair that was thought of, on the same cases, against cold runs.

Which tokens to compute anew, chosen with and without knowing the question; what else could tell an answer's truth.
The engine does what came out best here (see engine/repair.py). `python -m benchmarks.repairs --help`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.fidelity_sets import Loaded, load_sets
from benchmarks.options import positive
from benchmarks.repairs_cases import CASES
from benchmarks.repairs_cold import Colds
from benchmarks.repairs_criteria import Judged, judge
from benchmarks.repairs_decoder import PlainDecoder
from benchmarks.repairs_measure import Measured, Sample
from benchmarks.repairs_table import Report
from benchmarks.repairs_ways import REPAIRS, Repair
from engine.config import EngineConfig
from engine.device import choose_device, choose_dtype
from engine.errors import EngineError
from engine.models.load import load_language_model
from engine.models.resolve import resolve_model
from engine.tokenizer import Tokenizer


def run(
    decoder: PlainDecoder, tokenizer: Tokenizer, sets: Iterable[Loaded], cases: Sequence[str], repairs: Sequence[Repair]
) -> tuple[list[Sample], list[Judged]]:
    """Every repair of every case on every set. Cold runs of one set are forgotten before the next."""
    samples: list[Sample] = []
    judged: list[Judged] = []
    for loaded in sets:
        colds = Colds(decoder, tokenizer, loaded)
        for name in cases:
            measured = Measured(colds, CASES[name](name, colds))
            samples += measured.samples(repairs)
            judged += judge(measured)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples, judged


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    given = _parser().parse_args(arguments)
    config = EngineConfig(model=given.model, device=given.device, dtype=given.dtype, threads=given.threads)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    try:
        with torch.inference_mode():
            report = _report(config, given)
    except EngineError as error:
        print(f"benchmarks.repairs: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n", encoding="utf-8")
    return 0


def _report(config: EngineConfig, given: argparse.Namespace) -> Report:
    device = choose_device(config)
    folder = resolve_model(config.model)
    model, _ = load_language_model(folder, device=device, dtype=choose_dtype(config, device))
    tokenizer = Tokenizer.from_folder(folder)
    sets = load_sets(lambda text: len(tokenizer.encode(text, special=False)), given.sets)
    repairs = [repair for repair in REPAIRS if repair.name in given.repairs]
    samples, judged = run(PlainDecoder(model), tokenizer, sets, given.cases, repairs)
    return Report(
        model=config.model,
        machine=machine.describe(device) | {"dtype": str(model.dtype).removeprefix("torch.")},
        sets=tuple(loaded.set.package for loaded in sets),
        samples=tuple(samples),
        judged=tuple(judged),
    )


def _parser() -> argparse.ArgumentParser:
    names = [repair.name for repair in REPAIRS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repairs", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="catalogue name, folder or GGUF of the Llama family")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=positive, help="CPU threads of torch")
    parser.add_argument("--sets", type=positive, default=100, help="sets of files, at most")
    parser.add_argument("--cases", nargs="+", metavar="CASE", choices=CASES, default=[*CASES], help=", ".join(CASES))
    help_text = ", ".join(names).replace("%", "%%")
    parser.add_argument("--repairs", nargs="+", metavar="REPAIR", choices=names, default=names, help=help_text)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
