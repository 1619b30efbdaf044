"""How far KV that isn't exact remembers: a fact planted in a chunk, asked for once the chunk is off or changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.fidelity_report import Memory
from benchmarks.fidelity_sets import Loaded
from benchmarks.reader import Mode, Reader, add
from engine.context_manager import ContextManager
from engine.runtime.prefill import Prefill

PATH = "settings/quota.py"
FACT = '"""Limits of the service."""\n\nMAX_QUOTA_UNITS = {value}\n'
VALUE, OTHER = "48137", "20965"
QUESTION = "What is MAX_QUOTA_UNITS in settings/quota.py?"
ANSWER = "MAX_QUOTA_UNITS = "


def remember(reader: Reader, sets: Sequence[Loaded], modes: Mapping[str, Mode | None]) -> Iterator[Memory]:
    """Probability of the value that was, in each mode, when the chunk with it is switched off or has another value."""
    for loaded in sets:
        files = [loaded.files[0], (PATH, FACT.format(value=VALUE)), *loaded.files[1:]]
        base = reader.context(f"{loaded.set.package} memory", files)
        there = reader.compute(base, None)
        yield Memory(loaded.set.package, "there", "exact", _probability(reader, there))
        there.close()
        for change in ("switched off", "changed"):
            for mode, repair in modes.items():
                manager = reader.context(f"{loaded.set.package} memory", files, base.kv)
                _change(manager, change)
                prefill = reader.compute(manager, repair)
                yield Memory(loaded.set.package, change, mode, _probability(reader, prefill))
                prefill.close()


def _change(manager: ContextManager, change: str) -> None:
    if change == "changed":
        add(manager, PATH, FACT.format(value=OTHER))
    else:
        manager.set_active([PATH], False)


def _probability(reader: Reader, prefill: Prefill) -> float:
    """Of the value's tokens behind an answer that has come as far as naming it."""
    begun = [*reader.tail(QUESTION), *reader.encode(ANSWER)]
    value = reader.encode(VALUE)
    logits = reader.logits(prefill, [*begun, *value])[len(begun) - 1 : -1].log_softmax(-1)
    return float(sum(row[token] for row, token in zip(logits, value, strict=True)).exp())
