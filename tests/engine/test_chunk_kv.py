"""What an edit has left alone of a chunk's KV, and how runs, repairs and gaps make up a piece."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from engine.chunk_kv import ChunkKV, Span
from engine.hashing import token_array
from engine.kv.segment import Segment
from engine.repair import Repair
from engine.reuse import Part, _repaired, _with_gaps

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@st.composite
def chunk_kvs(draw: st.DrawFn) -> ChunkKV:
    """A chunk whose KV lies in spans that begin anywhere in their segments."""
    old = draw(tokens)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(old) - 1)), max_size=4)) | {0, len(old)})
    cuts = [cut for cut in cuts if cut <= len(old)]
    spans = [
        Span(bytes([number]), draw(st.integers(0, 9)), end - start)
        for number, (start, end) in enumerate(itertools.pairwise(cuts))
    ]
    return ChunkKV(token_array(old), tuple(spans))


@given(chunk_kvs(), st.data())
def test_matches_hold_the_same_tokens_and_never_overlap(kv: ChunkKV, data: st.DataObject) -> None:
    old = kv.tokens.tolist()
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(old)), st.integers(0, len(old)))))
    new = [*old[:start], *data.draw(st.lists(st.integers(0, 3), max_size=10)), *old[end:]] or [0]
    where = {span.key: sum(before.length for before in kv.spans[:n]) for n, span in enumerate(kv.spans)}
    offsets = {span.key: span.offset for span in kv.spans}
    reached, matched = 0, 0
    for match in kv.matches(token_array(new)):
        assert match.first >= reached
        reached = match.first + match.span.length
        place = where[match.span.key] + match.span.offset - offsets[match.span.key]
        assert new[match.first : reached] == old[place : place + match.span.length]
        matched += match.span.length
    assert reached <= len(new)
    assert matched >= min(start + len(old) - end, len(new), len(old)), "what stands before and behind an edit is found"


@given(st.data(), st.integers(1, 60))
def test_runs_repairs_and_gaps_tile_the_piece(data: st.DataObject, length: int) -> None:
    segment = Segment(b"", token_array(range(100)), 0, [], 100)
    cuts = sorted(data.draw(st.sets(st.integers(0, length), max_size=6)) | {0, length})
    runs = [
        Part(start, end - start, segment, data.draw(st.integers(0, 20)))
        for start, end in itertools.pairwise(cuts)
        if data.draw(st.booleans())
    ]
    windows = data.draw(st.lists(st.tuples(st.integers(0, length), st.integers(1, 12)), max_size=4))
    repair = Repair(seam=data.draw(st.integers(0, 8)), shortest=4)
    parts = list(_with_gaps(list(_repaired(runs, windows, repair)), length))
    assert [part.first for part in parts] == [sum(part.length for part in parts[:n]) for n in range(len(parts))]
    assert sum(part.length for part in parts) == length
    anew = {token for first, count in windows for token in range(first, first + count)}
    for part in parts:
        if part.segment is None:
            continue
        assert not anew & set(range(part.first, part.first + part.length)), "a window is computed"
        origin = next(run for run in runs if run.first <= part.first < run.first + run.length)
        assert part.offset - part.first == origin.offset - origin.first, "a part reads the tokens of its run"
