"""What chunks are called by: every way to name them, and what is said where a name means nothing or too much."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.protocol import ChunkInfo
from ctx_lsp.workspace.refs import Refs
from ctx_lsp.workspace.sources import SourceNames
from engine.errors import AmbiguousChunkError, EngineError, UnknownChunkError
from tests.lsp.driver import Driver, EngineSetup
from tests.lsp.wire_client import RpcError

A, B = Path("/home/me/a"), Path("/home/me/b [old]")


def chunk(*sources: str, tags: tuple[str, ...] = (), hash: str = "") -> ChunkInfo:
    return ChunkInfo(
        hash=hash or hashlib.sha256(sources[0].encode()).hexdigest(),
        kind="file",
        name=sources[0],
        sources=sources,
        tags=tags,
        parts=(),
        active=True,
        tokens=1,
        warm_tokens=0,
        fidelity="cold",
        pinned=False,
    )


def context() -> tuple[Refs, list[ChunkInfo]]:
    """Two folders with files, a file outside of both, an unsaved document, a composition, a selection, an answer."""
    names = SourceNames([A, B])
    paths = [A / "main.py", A / "src/x.py", A / "src/deep/y.py", B / "main.py", B / "src/z.py", Path("/etc/hosts")]
    files = [names.of_path(path) for path in paths]
    chunks = [chunk(name, tags=("py",) if name.endswith("main.py") else ()) for name in files]
    others = ("untitled:Untitled-1", "both", "src/x.py:3-7", "answer 1", "[id].tsx", "dead", "same/1.txt")
    chunks += [chunk(*(("same/1.txt", "same/2.txt") if name == "same/1.txt" else (name,))) for name in others]
    return Refs(names), chunks


def named(*refs: str) -> list[str]:
    """Names of the chunks that the refs mean."""
    resolver, chunks = context()
    names = {chunk.hash: chunk.name for chunk in chunks}
    return [names[hash] for hash in resolver.resolve(refs, chunks)]


@pytest.mark.parametrize(
    ("ref", "names"),
    [
        ("main.py", ["main.py"]),
        ("./src/../main.py", ["main.py"]),
        ("/home/me/b [old]/main.py", ["/home/me/b [old]/main.py"]),
        ("file:///home/me/a/src/x.py", ["src/x.py"]),
        ("file:///home/me/b%20%5Bold%5D/src/z.py", ["src/z.py"]),
        ("src/z.py", ["src/z.py"]),
        ("../b [old]/src/z.py", ["src/z.py"]),
        ("/etc/hosts", ["/etc/hosts"]),
        ("untitled:Untitled-1", ["untitled:Untitled-1"]),
        ("both", ["both"]),
        ("answer 1", ["answer 1"]),
        ("src/x.py:3-7", ["src/x.py:3-7"]),
        ("same/2.txt", ["same/1.txt"]),
        ("[id].tsx", ["[id].tsx"]),
        ("dead", ["dead"]),
        ("#py", ["main.py", "/home/me/b [old]/main.py"]),
        ("src/*.py", ["src/x.py", "src/z.py"]),
        ("src/**/*.py", ["src/x.py", "src/deep/y.py", "src/z.py"]),
        ("**/[xy].py", ["src/x.py", "src/deep/y.py"]),
        ("/home/me/a/src/*", ["src/x.py", "src/deep/y.py", "src/x.py:3-7"]),
        ("src", ["src/x.py", "src/deep/y.py", "src/z.py", "src/x.py:3-7"]),
        ("src/deep/", ["src/deep/y.py"]),
        ("same/*", ["same/1.txt"]),
        ("answer*", ["answer 1"]),
        ("/etc/*", ["/etc/hosts"]),
    ],
)
def test_every_way_to_name_chunks(ref: str, names: list[str]) -> None:
    assert named(ref) == names


def test_the_order_of_refs_counts_and_each_chunk_once() -> None:
    assert named("src/z.py", "#py", "src/*.py", "main.py") == [
        "src/z.py",
        "main.py",
        "/home/me/b [old]/main.py",
        "src/x.py",
    ]


def test_a_folder_means_all_below_it() -> None:
    _, chunks = context()
    assert set(named(".")) == {chunk.name for chunk in chunks} - {"/etc/hosts"}


@pytest.mark.parametrize(
    "ref", ["", "nothing.py", "#no", "*.rs", "no/**", "dea", "~nobody/x", "0" * 64, "a\0b", "[", "!"]
)
def test_what_means_nothing_is_an_error(ref: str) -> None:
    with pytest.raises(UnknownChunkError) as caught:
        named("main.py", ref)
    assert caught.value.data == {"ref": ref}


def test_hashes_and_their_beginnings() -> None:
    resolver, _ = context()
    one, two = chunk("one", hash="abcd" + "0" * 60), chunk("two", hash="abcd" + "1" * 60)
    assert resolver.resolve(["ABCD0"], [one, two]) == [one.hash]
    assert resolver.resolve([two.hash], [one, two]) == [two.hash]
    with pytest.raises(AmbiguousChunkError) as caught:
        resolver.resolve(["abcd"], [one, two])
    assert caught.value.message == "abcd could be abcd00000000 (one), abcd11111111 (two): give more digits"
    assert caught.value.data == {"candidates": [one.hash, two.hash]}


@given(st.text())
def test_any_text_means_chunks_or_is_a_typed_error(ref: str) -> None:
    resolver, chunks = context()
    try:
        found = resolver.resolve([ref], chunks)
    except EngineError:
        return
    assert found
    assert set(found) <= {chunk.hash for chunk in chunks}


def test_asking_gives_no_path_a_name() -> None:
    """Or a file that is asked for in vain would take the short name from one that is opened later."""
    names = SourceNames([A, B])
    with pytest.raises(UnknownChunkError):
        Refs(names).resolve([(B / "main.py").as_uri()], [])
    assert names.of_path(A / "main.py") == "main.py"


async def test_refs_over_the_wire(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    for name in ("src/a.py", "src/b.py", "doc.md"):
        driver.write(name, f"text of {name}")
    await client.command("ctx.load", paths=["src", "doc.md"])
    off = await client.command("ctx.deactivate", refs=["src/*.py"])
    assert [chunk["name"] for chunk in off["chunks"]] == ["src/a.py", "src/b.py"]
    by_uri = await client.command("ctx.activate", refs=[driver.uri("src/b.py"), str(driver.workspace / "doc.md")])
    assert [chunk["name"] for chunk in by_uri["chunks"]] == ["src/b.py", "doc.md"]
    with pytest.raises(RpcError) as caught:
        await client.command("ctx.delete", refs=["doc.md", "lib/**"])
    assert (caught.value.message, caught.value.data) == (
        "no chunk matches lib/**",
        {"code": "unknown_chunk", "ref": "lib/**"},
    )
    assert len((await client.request("ctx/chunks", {}))["chunks"]) == 3, "one bad ref and nothing is done"


async def test_an_answer_can_be_named_as_soon_as_it_is_there(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    answer = await client.request("ctx/chat", {"turnId": "t", "text": "What?"})
    (chunk,) = (await client.command("ctx.activate", refs=[answer["output"]]))["chunks"]
    assert (chunk["kind"], chunk["active"]) == ("output", True)
