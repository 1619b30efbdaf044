"""Results of commands as Markdown, for chats that show text. Pure functions of wire types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set

from ctx_lsp.protocol import (
    ChunkInfo,
    ChunksResult,
    LoadResult,
    Plan,
    RestoreResult,
    SavedInfo,
    SlashUsage,
    StatsResult,
)

SHORT_HASH = 8
_BACKTICKS = re.compile("`+")


def chunk_table(chunks: Sequence[ChunkInfo]) -> str:
    """One row per chunk in prompt order."""
    if not chunks:
        return "No chunks."
    rows = (
        (
            "●" if chunk.active else "○",
            f"`{chunk.hash[:SHORT_HASH]}`",
            _escape(_title(chunk)),
            f"{chunk.tokens:,}",
            warmth(chunk),
            "pinned" if chunk.pinned else "",
            _escape(" ".join(f"#{tag}" for tag in chunk.tags)),
        )
        for chunk in chunks
    )
    return _table(("", "hash", "chunk", "tokens", "warm", "order", "tags"), rows)


def context(result: ChunksResult) -> str:
    summary = f"{_about(result.estimated)}{result.active_tokens:,} of {result.limit:,} tokens are active."
    return f"{chunk_table(result.chunks)}\n\n{summary}"


def load(result: LoadResult) -> str:
    parts = []
    if result.loaded:
        tokens = sum(chunk.tokens for chunk in result.loaded)
        parts.append(f"Loaded {_count(len(result.loaded), 'file')}, {tokens:,} tokens.\n\n{chunk_table(result.loaded)}")
    if result.skipped:
        lines = "\n".join(f"- `{item.path}`: {item.reason}" for item in result.skipped)
        parts.append(f"Skipped {_count(len(result.skipped), 'path')}:\n\n{lines}")
    return "\n\n".join(parts) or "Nothing to load."


def plan(result: Plan, pinned: Set[str] = frozenset()) -> str:
    """`pinned`: hashes of the chunks that keep their places."""
    seconds = result.time_to_first_token
    wait = "" if seconds is None else f", its first token in about {seconds:.1f} s"
    summary = f"{_cost(result)} The answer would be **{result.mode}**{wait}."
    return f"{summary}\n\n{_plan_table(result, pinned)}" if result.chunks else summary


def populating(result: Plan) -> str:
    """What background prefill begins with."""
    return f"{_cost(result)}\n\n{_plan_table(result)}" if result.chunks else _cost(result)


def _cost(plan: Plan) -> str:
    return (
        f"The prompt has {_about(plan.estimated).lower()}{plan.tokens:,} of {plan.limit:,} tokens: "
        f"{plan.reused:,} are warm, {plan.prefill:,} have to be computed."
    )


def _plan_table(plan: Plan, pinned: Set[str] = frozenset()) -> str:
    rows = (
        (
            _escape(chunk.name),
            f"{chunk.tokens:,}",
            f"{chunk.reused:,}",
            f"{chunk.prefill:,}",
            chunk.fidelity,
            "pinned" if chunk.hash in pinned else "",
        )
        for chunk in plan.chunks
    )
    return _table(("chunk", "tokens", "reused", "prefill", "fidelity", "order"), rows)


def switched(chunks: Sequence[ChunkInfo], active: bool) -> str:
    word = "Activated" if active else "Deactivated"
    return f"{word} {_count(len(chunks), 'chunk')}.\n\n{chunk_table(chunks)}"


def pinned(chunks: Sequence[ChunkInfo], keeps: bool) -> str:
    word = "Pinned" if keeps else "Unpinned"
    return f"{word} {_count(len(chunks), 'chunk')}.\n\n{chunk_table(chunks)}"


def tagged(chunks: Sequence[ChunkInfo]) -> str:
    return f"Tagged {_count(len(chunks), 'chunk')}.\n\n{chunk_table(chunks)}"


def composed(chunk: ChunkInfo) -> str:
    return f"Composed {_count(len(chunk.parts), 'chunk')} as **{_escape(chunk.name)}**, {chunk.tokens:,} tokens."


def added(chunk: ChunkInfo) -> str:
    return f"Added **{_escape(chunk.name)}**, {chunk.tokens:,} tokens."


def document(text: str, language_id: str) -> str:
    """In a fence that the text can't end."""
    fence = "`" * max(3, 1 + max(map(len, _BACKTICKS.findall(text)), default=0))
    return f"{fence}{language_id}\n{text.rstrip()}\n{fence}"


def deleted(hashes: Sequence[str]) -> str:
    names = ", ".join(f"`{hash[:SHORT_HASH]}`" for hash in hashes)
    return f"Deleted {_count(len(hashes), 'chunk')}: {names}." if hashes else "Nothing was deleted."


def saved(info: SavedInfo) -> str:
    return f"Saved {_count(info.chunks, 'chunk')} as **{_escape(info.name)}**."


def saved_list(contexts: Sequence[SavedInfo]) -> str:
    if not contexts:
        return "No context was saved."
    rows = (
        (
            _escape(context.name),
            f"{context.chunks:,}",
            f"{context.active_tokens:,}",
            context.saved[:16].replace("T", " "),
        )
        for context in contexts
    )
    return _table(("context", "chunks", "active tokens", "saved (UTC)"), rows)


def restored(result: RestoreResult) -> str:
    parts = [f"Restored **{_escape(result.name)}**, {_count(len(result.chunks), 'chunk')}."]
    remarks = {
        "Changed since": result.changed,
        "Gone, and back as they were saved": result.recovered,
        "Could not be brought back": result.lost,
    }
    parts += [f"{remark}: {', '.join(f'`{name}`' for name in names)}." for remark, names in remarks.items() if names]
    return "\n\n".join([*parts, chunk_table(result.chunks)])


def forgotten(info: SavedInfo) -> str:
    return f"Forgot **{_escape(info.name)}**."


def stats(result: StatsResult) -> str:
    """The context's numbers, then the engine's."""
    rows = [
        ("chunks", f"{result.chunks:,}, {result.active_chunks:,} of them active"),
        ("active tokens", f"{result.active_tokens:,} of {result.limit:,}"),
        ("warm tokens", f"{result.warm_tokens:,} of {result.active_tokens:,}"),
    ]
    if (engine := result.engine) is not None:
        used, total = (count * engine.block_size for count in (engine.blocks_used, engine.blocks_total))
        rows += [
            ("KV pool of the engine", f"{used:,} of {total:,} tokens, {engine.segments:,} segments"),
            (
                "computed since it started",
                f"{engine.tokens_prefilled:,} prefilled, {engine.tokens_decoded:,} generated",
            ),
            ("answers", f"{engine.running:,} running, {engine.queued:,} waiting"),
            ("contexts", f"{engine.contexts:,}"),
        ]
    return _table(("", ""), rows)


def usages(commands: Iterable[SlashUsage]) -> str:
    return "\n".join(f"- `{command.usage}`: {command.summary}" for command in commands)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _title(chunk: ChunkInfo) -> str:
    return chunk.name if chunk.kind == "file" else f"{chunk.name} ({chunk.kind})"


def warmth(chunk: ChunkInfo) -> str:
    """How much of it has KV, and how good that is."""
    if chunk.warm_tokens == 0:
        return "cold"
    share = "" if chunk.warm_tokens == chunk.tokens else f" {100 * chunk.warm_tokens // max(1, chunk.tokens)}%"
    return chunk.fidelity + share


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _about(estimated: bool) -> str:
    return "About " if estimated else ""


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
