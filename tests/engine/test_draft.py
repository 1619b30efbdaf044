"""Drafts are what stood behind the last tokens before, found as anyone would who reads the whole stream."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.runtime.draft import Drafter

tokens = st.lists(st.integers(0, 3), max_size=60)


def drafter(*pieces: list[int]) -> Drafter:
    return Drafter([np.array(piece, dtype=np.int32) for piece in pieces])


def slowly(stream: list[int], count: int, least: int) -> list[int]:
    """What a draft must be, by reading everything."""
    best, begin = 0, 0
    for end in range(1, len(stream)):
        match = 0
        while match < min(16, end) and stream[end - 1 - match] == stream[-1 - match]:
            match += 1
        if match >= max(best, 1):
            best, begin = match, end
    if best < least:
        return []
    return list(itertools.islice(itertools.cycle(stream[begin:]), count))


@given(prompt=tokens.filter(bool), parts=st.lists(tokens.filter(bool), min_size=1, max_size=6), count=st.integers(1, 3))
def test_the_draft_is_what_stood_behind_the_longest_match(
    prompt: list[int], parts: list[list[int]], count: int
) -> None:
    drafts, answer = drafter(prompt[: len(prompt) // 2], prompt[len(prompt) // 2 :]), list[int]()
    for part in parts:
        answer += part
        assert drafts.draft(answer, count).tolist() == slowly([*prompt, *answer], count, 2)


def test_the_latest_of_several_is_taken() -> None:
    assert drafter([1, 2, 3, 9, 1, 2, 4, 8]).draft([1, 2], 2).tolist() == [4, 8]
    assert drafter([7, 1, 2, 3, 9, 1, 2, 4, 8]).draft([7, 1, 2], 2).tolist() == [3, 9], "a longer match is better"


def test_a_match_that_runs_into_itself_goes_on_in_circles() -> None:
    assert drafter([5]).draft([1, 2, 1, 2], 3).tolist() == [1, 2, 1]


def test_nothing_is_drafted_behind_what_was_never_said() -> None:
    assert drafter([1, 2, 3]).draft([4], 8).tolist() == []
    assert drafter([1, 2, 3]).draft([1], 8).tolist() == [], "one token says too little"
    assert drafter([1, 2, 3, 1]).draft([2], 0).tolist() == []


def test_drafts_grow_while_they_are_right_and_shrink_when_they_are_not() -> None:
    drafts = drafter(list(range(100)))
    lengths = []
    for accepted in (True, True, True, True, False, False, False, False):
        lengths.append(drafts.length)
        drafts.verified(drafts.length, drafts.length if accepted else 0)
    assert lengths == [3, 7, 15, 15, 15, 7, 3, 1]
    drafts.verified(15, 12)
    assert drafts.length == 1, "more right than wrong: it stays"


def test_matches_must_be_longer_when_drafts_prove_wrong() -> None:
    drafts = drafter([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert drafts.draft([3, 4], 2).tolist() == [5, 6]
    for _ in range(3):
        drafts.verified(3, 0)
    assert drafts.draft([3, 4, 0, 3, 4], 2).tolist() == []
    assert drafts.draft([3, 4, 0, 3, 4, 5, 6, 7], 1).tolist() == [8]
    drafts.verified(1, 1)
    assert drafts.draft([3, 4, 0, 3, 4, 5, 6, 7, 0, 1, 2], 1).tolist() == [3]
