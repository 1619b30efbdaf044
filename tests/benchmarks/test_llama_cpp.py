"""llama.cpp as a peer of decoding: what it is told and what it says, by packages that only look like it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import machine
from benchmarks.ceilings import H200, Work
from benchmarks.decode_outside import Asked, Peers, Remarks, outside_rows
from benchmarks.decode_report import LLAMA, ONE, Report, Row
from benchmarks.gguf_file import gguf_file
from benchmarks.llama_cpp_peer import features
from benchmarks.random_model import SHAPES, decoder_config
from tests.benchmarks.shapes import TINY_SHAPE

LLAMA_CPP = """
import ctypes, time
__version__ = "1.2.3"
def llama_print_system_info(): return b"CPU : AVX2 = 1 | AVX512 = 0 | "
_logits = (ctypes.c_float * 4)(0, 1, 3, 2)
def llama_get_logits_ith(context, row): return ctypes.cast(_logits, ctypes.POINTER(ctypes.c_float))
class Llama:
    ctx = None
    def __init__(self, path, n_ctx, n_threads, n_threads_batch, flash_attn, verbose):
        assert (n_threads, n_threads_batch) == (3, 3), (n_threads, n_threads_batch)
        if flash_attn: raise RuntimeError("no flash attention here")
        self.left, self.room = n_ctx, n_ctx
    def n_vocab(self): return 4
    def reset(self): self.left = self.room
    def eval(self, tokens):
        self.left -= len(tokens)
        assert self.left >= 0
        time.sleep(0.001)
"""
XLLAMACPP = """
__version__ = "4"
def get_system_info(): return "CPU : AVX2 = 1 | "
class llama_flash_attn_type: LLAMA_FLASH_ATTN_TYPE_ENABLED, LLAMA_FLASH_ATTN_TYPE_DISABLED = 1, 0
class Part: pass
class CommonParams:
    def __init__(self): self.model, self.cpuparams, self.cpuparams_batch = Part(), Part(), Part()
class Server:
    def __init__(self, parameters): assert parameters.cpuparams.n_threads == 3
    def handle_completions(self, request, take):
        assert request["stream"] and not request["cache_prompt"]
        for _ in range(request["max_tokens"]): take({})
        take({"timings": {"prompt_per_second": len(request["prompt"]) * 2.0}})
"""


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.touch()
    return path


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama_cpp.py").write_text(LLAMA_CPP)
    (tmp_path / "xllamacpp.py").write_text(XLLAMACPP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def asked(model: str, shape: str | None = None) -> Asked:
    return Asked(model, shape, "cpu", torch.float32, threads=3, contexts=(50, 90), tokens=5)


@pytest.mark.usefixtures("packages")
def test_both_packages_decode_in_another_interpreter(gguf: Path) -> None:
    remarks = Remarks()
    rows = list(outside_rows(Peers(llama_cpp=Path(sys.executable)), asked(str(gguf)), remarks))
    ways = ((f"{LLAMA} by llama_cpp", ""), (f"{LLAMA} by xllamacpp", ""), (f"{LLAMA} by xllamacpp", "flash attention"))
    assert [(row.side, row.layout, row.context) for row in rows] == [
        (*way, length) for way in ways for length in (50, 90)
    ]
    assert all(row.per_token > 0 and row.mean > 0 and row.prefill for row in rows)
    assert rows[0].per_token > 0.001
    assert rows[2].prefill == 100
    assert remarks.notes == ["llama_cpp 1.2.3: AVX2", "xllamacpp 4: AVX2"]
    (problem,) = remarks.failed
    assert problem.startswith(f"{LLAMA} by llama_cpp, flash attention: ended with status 1")
    assert "no flash attention here" in problem


@pytest.mark.parametrize(("model", "shape"), [("no-such-model", None), ("smollm2-135m", "qwen2.5-7b")])
def test_what_llama_cpp_cannot_run_is_said(model: str, shape: str | None) -> None:
    remarks = Remarks()
    assert list(outside_rows(Peers(llama_cpp=Path(sys.executable)), asked(model, shape), remarks)) == []
    assert len(remarks.failed) == 1


def test_only_a_gguf_that_is_there_is_one(gguf: Path) -> None:
    assert gguf_file(str(gguf)) == gguf
    for other in (gguf.parent, gguf.with_name("other.gguf")):
        with pytest.raises(ValueError, match="is no GGUF on this machine"):
            gguf_file(str(other))


def test_features_are_what_is_switched_on() -> None:
    assert features("CPU : SSE3 = 1 | AVX512 = 0 | REPACK = 1 | ") == ["SSE3", "REPACK"]
    assert features("") == []


def test_instruction_sets_are_told_apart() -> None:
    flags = "fpu avx avx2 avx512f avx512cd avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16"
    assert machine.instruction_sets(flags) == [*("avx2", "avx512f", "avx512_vnni", "avx512_bf16"), *flags.split()[-3:]]
    assert "instructions" in machine.describe(torch.device("cpu"))


def test_each_row_is_compared_with_the_quickest_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY_SHAPE)

    def row(side: str, seconds: float, answers: int = 1) -> Row:
        return Row(512, side, ONE, answers, seconds, seconds, 512)

    rows = (row("ctx-lsp", 0.5), row("ctx-lsp", 1.0, 4), row(f"{LLAMA} by a", 2.0), row(f"{LLAMA} by b", 1.0))
    work = Work.of(decoder_config("tiny"), torch.float32)
    heading, *lines = str(Report("", {}, {}, H200, work, rows)).splitlines()[4:9]
    assert f"× {LLAMA}" in heading
    place = heading.index(f"× {LLAMA}") + len(f"× {LLAMA}")
    assert [line[:place].split()[-1] for line in lines] == ["2.00", "4.00", "0.50", "1.00"]
    assert LLAMA not in str(Report("", {}, {}, H200, work, rows[:2]))
