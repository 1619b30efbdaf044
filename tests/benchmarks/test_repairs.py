"""Every repair and every case on a tiny model: what is computed, and that only computing everything says the truth."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.fidelity_sets import SETS, Excerpt, Loaded, SourceSet, load_sets
from benchmarks.repairs import main, run
from benchmarks.repairs_cases import CASES
from benchmarks.repairs_cold import Colds
from benchmarks.repairs_criteria import Judged
from benchmarks.repairs_decoder import PlainDecoder
from benchmarks.repairs_measure import Sample
from benchmarks.repairs_table import Report
from benchmarks.repairs_ways import REPAIRS
from engine.errors import UnsupportedModelError
from engine.models.load import load_language_model
from engine.tokenizer import Tokenizer
from tests.engine.oracle import oracle
from tests.tiny_models import tiny_model

PLAIN = ("none", "everything", "first16")
"""What is done to every case here; the rest to one."""

Found = tuple[list[Sample], list[Judged]]


def _text(name: str) -> str:
    lines = [f"LIMIT_OF_{name.upper()} = 20", f"def {name}(left, right):", "    total = left", "    return total"]
    return "\n".join([*lines, ""])


FILES = tuple((f"tiny/{name}.py", _text(name)) for name in ("add", "sub", "mul", "div", "mod", "power"))
SET = SourceSet(
    "tiny",
    tuple(Excerpt(path, 4) for path, _ in FILES),
    defines=1,
    uses=4,
    asked=2,
    single="What does mul do?",
    cross="What is the limit of sub?",
    edit=("LIMIT_OF_SUB = 20", "LIMIT_OF_SUB = 35"),
)
LOADED = Loaded(SET, FILES)


@pytest.fixture(scope="module", autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(tiny_model("qwen2"))


@functools.cache
def _decoder(family: str) -> PlainDecoder:
    model, _ = load_language_model(tiny_model(family), device=torch.device("cpu"), dtype=torch.float32)
    return PlainDecoder(model)


@pytest.fixture(scope="module")
def found(tokenizer: Tokenizer) -> Iterator[Found]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.repairs_cold.ANSWER_TOKENS", 4)
        plain = [repair for repair in REPAIRS if repair.name in PLAIN]
        samples, judged = run(_decoder("qwen2"), tokenizer, [LOADED], list(CASES), plain)
        rest = [repair for repair in REPAIRS if repair.name not in PLAIN]
        samples += run(_decoder("qwen2"), tokenizer, [LOADED], ["drop_first", "insert_mid"], rest)[0]
    yield samples, judged
    torch.set_num_threads(threads)


def _of(found: Found, repair: str) -> list[Sample]:
    return [sample for sample in found[0] if sample.repair == repair]


def test_only_computing_everything_says_what_is_true(found: Found) -> None:
    everything, nothing = _of(found, "everything"), _of(found, "none")
    assert [sample.case for sample in everything] == [case for case in CASES for _ in range(2)]
    assert len(nothing) == len(everything)
    for sample in everything:
        assert sample.kl < 1e-9
        assert sample.top1 == 1
        assert sample.same
    for sample in nothing:
        assert sample.kl > 1e-7
        assert sample.cost == 0


def test_what_each_repair_computes(found: Found, tokenizer: Tokenizer) -> None:
    colds = Colds(_decoder("qwen2"), tokenizer, LOADED)
    case = CASES["drop_first"]("drop_first", colds)
    assert [case.ids[stale.first : stale.end] for stale in case.stale] == list(colds.files[1:])
    costs = {s.repair: s.cost for s in found[0] if (s.case, s.question) == ("drop_first", "single")}
    assert set(costs) == {repair.name for repair in REPAIRS}
    tokens = len(case.ids)
    counts = {name: round(cost * tokens / 100) for name, cost in costs.items()}
    assert counts["everything"] == tokens - len(colds.head)
    assert [counts[name] for name in ("first4", "first16", "last16", "next16", "next64")] == [20, 80, 80, 16, 64]
    assert counts["first16+shiftV"] == counts["first16"]
    assert 0 < counts["header"] < counts["frame"]
    assert {counts[name] for name in counts if name.startswith("trick")} == {0}
    for name in counts:
        if name.endswith("%"):
            share = int(int(re.findall(r"\d+", name)[-1]) * tokens / 100)
            window = 8 if "win8" in name else 16
            begun = counts["first16"] if name.startswith("first16") else 0
            assert max(begun, share - window) <= counts[name] <= max(begun, share), name


def test_what_was_paid_to_what_is_gone_and_what_was_gained(found: Found) -> None:
    new = {"anchor_mid", "anchor_end", "anchor_all", "insert_mid", "insert_front"}
    figures = {one.case: one.figures for one in found[1]}
    assert {case for case in figures if figures[case]["paid"] > 0} == set(CASES) - new
    gaining = {case for case in figures if figures[case]["gained"] > 0}
    assert gaining == new | {case for case in CASES if case.startswith(("edit", "move", "swap"))}
    names = {sample.repair for sample in found[0] if sample.case == "insert_mid"}
    assert names == {repair.name for repair in REPAIRS if not repair.paid}


def test_a_file_behind_a_change_is_computed_up_to_its_seam(tokenizer: Tokenizer) -> None:
    colds = Colds(_decoder("qwen2"), tokenizer, LOADED)
    computed = [len(CASES[name](name, colds).computed) for name in ("edit_suffix_w0", "edit_suffix_w16", "edit_mid")]
    assert computed[1] == computed[0] + 16
    assert computed[2] > computed[0] > 0
    suffix = [stale for stale in CASES["edit_suffix_w0"]("edit_suffix_w0", colds).stale if stale.suffix]
    assert len(suffix) == 1


def test_the_tables_have_what_was_asked_for(found: Found) -> None:
    printed = str(Report("tiny", {"device": "CPU"}, ("tiny",), *(tuple(part) for part in found)))  # type: ignore[arg-type]
    tables = printed.split("\n\n## ")
    assert [table.splitlines()[0] for table in tables[1:]] == [*CASES, "What tells beforehand"]
    assert all(f"\n{repair.name}  " in tables[1] for repair in REPAIRS)
    for group in ("drops", "edits and moves", "inserts and anchored", "all"):
        assert f"\n{group}  " in tables[-1]


def test_the_decoder_says_what_transformers_say() -> None:
    for family in ("qwen2", "llama-yarn"):
        decoder, ids = _decoder(family), torch.arange(7, 60)
        kv = decoder.empty(64)
        logits = decoder.logits(decoder.run(ids, torch.arange(53), kv))
        want = oracle(tiny_model(family)).logits(ids.tolist())
        torch.testing.assert_close(logits, want, atol=1e-4, rtol=0)
        decoder.run(ids[9:12], torch.arange(9, 12), kv)
        again = decoder.logits(decoder.run(ids[-1:], torch.tensor([52]), kv))
        torch.testing.assert_close(again, want[-1:], atol=1e-4, rtol=0)


def test_other_models_are_refused() -> None:
    for family in ("mistral-sliding", "smollm3"):
        with pytest.raises(UnsupportedModelError):
            _decoder(family)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.repairs.load_sets", lambda count, most: [LOADED][:most])
    monkeypatch.setattr("benchmarks.repairs_cold.ANSWER_TOKENS", 4)
    options = ["--model", str(tiny_model("qwen2")), "--device", "cpu", "--json", str(tmp_path / "repairs.json")]
    assert main([*options, "--cases", "drop_mid", "--repairs", "none", "first16"]) == 0
    printed = capsys.readouterr().out
    assert "## drop_mid" in printed
    written = json.loads((tmp_path / "repairs.json").read_text())
    assert [sample["repair"] for sample in written["samples"]] == ["none", "none", "first16", "first16"]
    assert all(f"{sample['kl']:.4f}" in printed for sample in written["samples"])
    assert main(["--model", str(tmp_path)]) == 2
    with pytest.raises(SystemExit):
        main(["--cases", "drop_everything"])


def test_excerpts_have_so_many_lines() -> None:
    lengths = {one.package: [excerpt.lines for excerpt in one.files] for one in SETS}
    for loaded in load_sets(lambda text: 0, len(SETS)):
        counts = [len(text.splitlines()) for _, text in loaded.files]
        assert all(count <= most for count, most in zip(counts, lengths[loaded.set.package], strict=True))
