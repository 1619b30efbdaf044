"""Where in a text a model's code block belongs, and what it changes there: `anchor`.

Pure text work, strategy by strategy, each a file of its own: `search_replace`, `diffs`, `ellipsis`, `whole`,
`definitions`, `regions`. They speak of lines (`lines`); none knows of documents, files or LSP. A strategy that a block
isn't meant for answers None; one that can't be sure raises UnsureError.
"""

from ctx_lsp.chat.anchoring.anchor import Anchored, anchor
from ctx_lsp.chat.anchoring.lines import Edit, UnsureError

__all__ = ["Anchored", "Edit", "UnsureError", "anchor"]
