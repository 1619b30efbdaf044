"""Which chunks are active: never more than fit, the user's first, then what was touched last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.protocol import Origin
from ctx_lsp.workspace.budget import Claim, fit, reserved_tokens

TOKENS = {"a": 1, "b": 40, "c": 100, "d": 400, "e": 900, "f": 2000}
origins: st.SearchStrategy[Origin] = st.sampled_from(["user", "automatic"])
leaves = st.sets(st.sampled_from(sorted(TOKENS)), min_size=1).map(lambda names: {name: TOKENS[name] for name in names})


@st.composite
def all_claims(draw: st.DrawFn) -> list[Claim]:
    ranks = draw(st.permutations(range(draw(st.integers(0, 6)))))
    return [Claim(f"chunk {rank}", draw(leaves), draw(origins), (rank,)) for rank in ranks]


def tokens(claims: list[Claim]) -> int:
    shown: dict[str, int] = {}
    for claim in claims:
        shown |= claim.leaves
    return sum(shown.values())


def precedes(one: Claim, other: Claim) -> bool:
    return (one.origin == "user", one.rank) > (other.origin == "user", other.rank)


@given(claims=all_claims(), limit=st.integers(1, 4000))
def test_what_is_active_fits_and_what_is_not_would_not(claims: list[Claim], limit: int) -> None:
    room = limit - reserved_tokens(limit)
    result = fit(claims, limit)
    active = [claim for claim in claims if claim.key in result.active]
    assert tokens(active) <= room
    assert {*result.active, *result.left_out} == {claim.key for claim in claims}
    for claim in claims:
        before = [other for other in active if precedes(other, claim)]
        assert (tokens([*before, claim]) <= room) == (claim.key in result.active)


@given(claims=all_claims(), limit=st.integers(1, 4000), data=st.data())
def test_the_order_in_which_claims_are_listed_does_not_matter(
    claims: list[Claim], limit: int, data: st.DataObject
) -> None:
    assert fit(data.draw(st.permutations(claims)), limit) == fit(claims, limit)


@given(claims=all_claims(), limit=st.integers(1, 4000), needed=st.integers(1, 3000))
def test_automatic_chunks_never_push_out_one_of_the_users(claims: list[Claim], limit: int, needed: int) -> None:
    users = {claim.key for claim in claims if claim.origin == "user"}
    newcomer = Claim("newcomer", {"newcomer": needed}, "automatic", (99,))
    assert fit([*claims, newcomer], limit).active & users == fit(claims, limit).active & users


def test_reasons_have_figures() -> None:
    origin: Origin = "automatic"
    claims = [Claim("large", {"x": 800}, origin, (2,)), Claim("small", {"y": 100}, origin, (1,))]
    assert fit(claims, 1000).left_out == {
        "small": "no room for its 100 tokens: 800 of 1,000 are taken by active chunks"
    }
