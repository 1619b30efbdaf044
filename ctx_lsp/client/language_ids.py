"""File names to LSP's language identifiers: the specification's table, for texts that no client has opened."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

PLAIN = "plaintext"
MARKDOWN = "markdown"

_BY_SUFFIX = {
    ".bat": "bat",
    ".c": "c",
    ".cc": "cpp",
    ".clj": "clojure",
    ".cpp": "cpp",
    ".cs": "csharp",
    ".css": "css",
    ".cu": "cuda-cpp",
    ".dart": "dart",
    ".diff": "diff",
    ".ex": "elixir",
    ".exs": "elixir",
    ".erl": "erlang",
    ".fs": "fsharp",
    ".go": "go",
    ".h": "c",
    ".hpp": "cpp",
    ".hs": "haskell",
    ".html": "html",
    ".ini": "ini",
    ".java": "java",
    ".js": "javascript",
    ".json": "json",
    ".jsx": "javascriptreact",
    ".kt": "kotlin",
    ".less": "less",
    ".lua": "lua",
    ".m": "objective-c",
    ".md": MARKDOWN,
    ".patch": "diff",
    ".php": "php",
    ".pl": "perl",
    ".ps1": "powershell",
    ".py": "python",
    ".pyi": "python",
    ".r": "r",
    ".rb": "ruby",
    ".rs": "rust",
    ".rst": "restructuredtext",
    ".sass": "sass",
    ".scala": "scala",
    ".scss": "scss",
    ".sh": "shellscript",
    ".sql": "sql",
    ".swift": "swift",
    ".tex": "latex",
    ".toml": "toml",
    ".ts": "typescript",
    ".tsx": "typescriptreact",
    ".vb": "vb",
    ".vue": "vue",
    ".xml": "xml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".zig": "zig",
}
_LINES = re.compile(r":\d+(-\d+)?$")
_BY_NAME = {"dockerfile": "dockerfile", "makefile": "makefile", "cmakelists.txt": "cmake"}


def language_id(name: str) -> str:
    """Of a file, or some lines of one, by its name; plain text where it says nothing."""
    path = PurePosixPath(_LINES.sub("", name.lower()))
    return _BY_NAME.get(path.name) or _BY_SUFFIX.get(path.suffix, PLAIN)
