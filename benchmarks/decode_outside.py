"""Decoding by peers in processes of their own: those that compile, and llama.cpp in an interpreter that has it.

Knows what each is told and what its lines mean; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.decode_peers import COMPILED
from benchmarks.decode_report import LLAMA, Row
from benchmarks.gguf_file import gguf_file
from benchmarks.outside import run_outside

GPT_FAST = "gpt-fast"
_LLAMA_LIMIT = 1800.0
_LLAMA_WAYS = {
    "": (),
    "flash attention": ("--flash-attention",),
}


@dataclass(frozen=True)
class Peers:
    """Who takes part.

    Attributes:
        compile_limit: seconds for each peer that compiles, all lengths together; 0 leaves them out.
        gpt_fast: a checkout of gpt-fast, if it shall take part.
        llama_cpp: an interpreter that has llama_cpp or xllamacpp, if llama.cpp shall take part.
    """

    compile_limit: float = 0
    gpt_fast: Path | None = None
    llama_cpp: Path | None = None


@dataclass(frozen=True)
class Asked:
    """What all sides decode, and how: `shape` stands in for the model where it is given."""

    model: str
    shape: str | None
    device: str
    dtype: torch.dtype
    threads: int
    contexts: tuple[int, ...]
    tokens: int

    @property
    def sizes(self) -> list[str]:
        """The options that all peers have. The middle length comes first, if time is short."""
        contexts = sorted(self.contexts, key=lambda context: context != 8192)
        return ["--contexts", *map(str, contexts), "--tokens", str(self.tokens)]


@dataclass
class Remarks:
    """What there is to say of peers beside their rows: what they are (`notes`), and what went wrong (`failed`)."""

    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def outside_rows(peers: Peers, asked: Asked, remarks: Remarks) -> Iterator[Row]:
    """Of all that take part, one after the other."""
    if peers.compile_limit and asked.shape:
        yield from _compiled(peers, asked, asked.shape, remarks.failed)
    if peers.llama_cpp:
        yield from _llama_cpp(peers.llama_cpp, asked, remarks)


def _compiled(peers: Peers, asked: Asked, shape: str, failed: list[str]) -> Iterator[Row]:
    common = [*asked.sizes, "--random-shape", shape]
    common += ["--device", asked.device, "--dtype", str(asked.dtype).removeprefix("torch.")]
    modules = {COMPILED: ("benchmarks.compiled", common)}
    if peers.gpt_fast:
        modules[GPT_FAST] = ("benchmarks.gpt_fast", [str(peers.gpt_fast), *common])
    for name, (module, arguments) in modules.items():
        found, problem = run_outside(module, arguments, peers.compile_limit)
        if problem:
            failed.append(f"{name}: {problem}")
        for one in found:
            context = one["context"]
            if one["skipped"]:
                failed.append(f"{name} at {context:,}: computed without CUDA graphs")
            yield Row(context, name, "", 1, one["median"], one["mean"], context, compiling=one["compiling"])


def _llama_cpp(python: Path, asked: Asked, remarks: Remarks) -> Iterator[Row]:
    """By both of its packages, without flash attention and with it, on the model's own GGUF."""
    try:
        if asked.shape:
            raise ValueError("it can't run a random model")
        common = ["--model", str(gguf_file(asked.model)), "--threads", str(asked.threads), *asked.sizes]
    except ValueError as error:
        remarks.failed.append(f"{LLAMA}: {error}")
        return
    for package in ("llama_cpp", "xllamacpp"):
        for layout, options in _LLAMA_WAYS.items():
            name = f"{LLAMA} by {package}"
            found, problem = run_outside(
                "benchmarks.llama_cpp_peer", [package, *common, *options], _LLAMA_LIMIT, python
            )
            if problem:
                remarks.failed.append(f"{', '.join(filter(None, (name, layout)))}: {problem}")
            for one in found:
                if "about" in one and one["about"] not in remarks.notes:
                    remarks.notes.append(one["about"])
                elif "context" in one:
                    times = (one["median"], one["mean"])
                    yield Row(one["context"], name, layout, 1, *times, one["context"], prefill=one["prefill"])
