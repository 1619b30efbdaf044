"""What decoding by a GGUF's own quantized weights changes: next tokens beside those of the same weights in float32.

Texts are read behind a prompt that float32 has computed; the library's steps round activations to 8 bits. Beside it
stand decoding in bfloat16 by the dequantized weights, and small steps from the prompt on, as for a context that was
edited line by line. `python -m benchmarks.quantized_decode --help`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.corpus import SourceFile, find_files
from benchmarks.divergence import Divergence
from benchmarks.options import add_engine_options, engine_config, positive
from benchmarks.table import layout
from engine.attention.base import AttentionRow
from engine.config import EngineConfig
from engine.errors import EngineError
from engine.hashing import TokenArray, token_array
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.model import LoadedModel, load_model
from engine.models.decoder import Decoder
from engine.native.abi import MOST_TOKENS
from engine.native.prepare import prepare_stepper
from engine.runtime.native_steps import NativeSteps
from engine.runtime.runner import Runner
from engine.runtime.scheduler import StepRow

Run = Callable[[StepRow], Tensor]
"""Logits behind all tokens of a row, float32 [T, vocab]."""

_HEADINGS = ("weights", "activations", "KL", "worst text", "top-1", "worst text")


@dataclass(frozen=True)
class Sample:
    """One text, read in one way."""

    weights: str
    activations: str
    text: str
    divergence: Divergence


@dataclass(frozen=True)
class Report:
    """Its string is what the benchmark prints."""

    model: str
    machine: dict[str, str | int | float]
    prompt: int
    tokens: int
    kinds: dict[str, int]
    samples: tuple[Sample, ...]

    def __str__(self) -> str:
        texts = len({sample.text for sample in self.samples})
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        title = (
            f"Decoding {self.tokens} tokens of {texts} texts behind {self.prompt} tokens with {self.model} "
            f"({machine.in_words(self.machine)})\nMatrices: {kinds}"
        )
        ways = dict.fromkeys((sample.weights, sample.activations) for sample in self.samples)
        return f"{title}\n\n{layout([_HEADINGS, *map(self._line, ways)], left=(0, 1))}"

    def _line(self, way: tuple[str, str]) -> tuple[str, ...]:
        found = [sample.divergence for sample in self.samples if (sample.weights, sample.activations) == way]
        kl, top1 = [each.kl for each in found], [each.top1 for each in found]
        mean = (sum(kl) / len(kl), max(kl), sum(top1) / len(top1), min(top1))
        return (*way, f"{mean[0]:.5f}", f"{mean[1]:.5f}", f"{mean[2]:.3f}", f"{mean[3]:.3f}")


def run(config: EngineConfig, *, texts: int, prompt: int, tokens: int) -> Report:
    """Read the texts in all ways.

    Raises:
        EngineError: the model can't be loaded.
        ValueError: it has no packed weights, or nothing here computes with them.
    """
    config = replace(config, device="cpu", dtype="float32", kv_cache_tokens=prompt + tokens + 2 * config.block_size)
    model = load_model(config)
    if not isinstance(model.decoder, Decoder) or not model.decoder.packed:
        raise ValueError(f"{config.model} has no packed weights: it is no GGUF of the Llama family")
    read = {file.name: _ids(model, file, prompt + tokens) for file in find_files((), texts)}
    right = dict(_read(model, read, prompt, _dense(model)))
    packed = _packed(model)
    samples = list(_compare(right, _read(model, read, prompt, packed), tokens, "packed", "8 bits"))
    samples += _compare(right, _read(model, read, prompt, packed, packed), tokens, "packed, prompt too", "8 bits")
    kinds: dict[str, int] = {}
    for matrix in model.decoder.packed.values():
        kinds[matrix.kind.name] = kinds.get(matrix.kind.name, 0) + 1
    del model
    half = load_model(replace(config, dtype="bfloat16"))
    samples += _compare(right, _read(half, read, prompt, _dense(half)), tokens, "dequantized", "bfloat16")
    return Report(config.model, machine.describe(half.device), prompt, tokens, kinds, tuple(samples))


def _ids(model: LoadedModel, file: SourceFile, count: int) -> TokenArray:
    return token_array(model.tokenizer.encode(file.text, special=False)[:count])


def _compare(
    right: dict[str, Tensor], found: Iterator[tuple[str, Tensor]], tokens: int, weights: str, activations: str
) -> Iterator[Sample]:
    for text, logits in found:
        yield Sample(weights, activations, text, Divergence.of(logits, right[text], tokens - 1))


def _dense(model: LoadedModel) -> Run:
    runner = Runner(model.decoder, model.attention, model.device)

    def run(row: StepRow) -> Tensor:
        logits, _ = runner.run([row])
        assert logits is not None
        return logits

    return run


def _packed(model: LoadedModel) -> Run:
    assert isinstance(model.decoder, Decoder)
    stepper = prepare_stepper(model.decoder, model.pool)
    if stepper is None:
        raise ValueError("no library was built for this processor")
    steps = NativeSteps(stepper, model.pool)

    def run(row: StepRow) -> Tensor:
        computed = steps.run([row], range(row.samples))
        assert computed is not None
        return computed[0]

    return run


def _read(
    model: LoadedModel, texts: dict[str, TokenArray], prompt: int, run: Run, run_prompt: Run | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Logits behind each token of each text after the prompt, which `run_prompt` computes, else the dense weights."""
    size = model.pool.block_size
    blocks = -(-prompt // size)
    for text, ids in texts.items():
        nothing = VirtualBlockTable.build([], size)
        first = Segment(b"", ids[:prompt], 0, list(range(blocks)), 0)
        rest = Segment(b"", ids[prompt:], prompt, list(range(blocks, model.pool.num_blocks)), 0)
        if run_prompt is None:
            _fill(nothing, first, prompt, _dense(model))
        else:
            _fill(nothing, first, MOST_TOKENS, run_prompt)
        yield text, _fill(nothing.then(Placement(first, 0, prompt)), rest, MOST_TOKENS, run)


def _fill(table: VirtualBlockTable, segment: Segment, most: int, run: Run) -> Tensor:
    """Compute a segment's KV, at most so many tokens at a time; logits behind all its tokens."""
    logits: list[Tensor] = []
    while segment.filled < len(segment.tokens):
        tokens = segment.tokens[segment.filled : segment.filled + most]
        row = AttentionRow(table, segment, len(tokens))
        logits.append(run(StepRow(None, row, tokens, len(tokens))))  # type: ignore[arg-type]
        segment.filled += len(tokens)
    return torch.cat(logits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    given = _parser().parse_args(arguments)
    try:
        with torch.inference_mode():
            report = run(engine_config(given), texts=given.texts, prompt=given.prompt, tokens=given.tokens)
    except (EngineError, ValueError) as error:
        print(f"benchmarks.quantized_decode: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantized_decode", description=__doc__)
    add_engine_options(parser)
    parser.add_argument("--texts", type=positive, default=6, help="files of the standard library")
    parser.add_argument("--prompt", type=positive, default=512, help="tokens before")
    parser.add_argument("--tokens", type=positive, default=128, help="that are decoded of each")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
