"""Writes `lsprotocol-messages.jsonl.xz`: what a client may send, of the test data that lsprotocol generates.

Run it with the path of that file in a checkout of github.com/microsoft/lsprotocol (MIT licence); the file here is of
its commit e55a4cf. One line per message: the kind, whether lsprotocol says that it is valid, and the message.
"""

from __future__ import annotations

import json
import logging
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

from lsprotocol.types import _MESSAGE_DIRECTION

ANSWERS = ("ShowDocumentResponse", "ConfigurationResponse")
"""Of requests that this server sends; those of others have the same shape."""


def lines(folder: Path) -> Iterator[str]:
    sys.path.insert(0, str(folder))
    from generator import model  # type: ignore[import-not-found]
    from generator.plugins.testdata.testdata_generator import generate  # type: ignore[import-not-found]

    spec = model.create_lsp_model([json.loads((folder / "generator" / "lsp.json").read_text(encoding="utf-8"))])
    methods = {method for method, direction in _MESSAGE_DIRECTION.items() if direction != "serverToClient"}
    for name, text in generate(spec, logging.getLogger()).items():
        kind, valid, _ = name.split("-", 2)
        message = json.loads(text)
        if kind in ANSWERS if kind.endswith("Response") else message.get("method") in {None, *methods}:
            yield json.dumps([kind, valid == "True", message], ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    data = "\n".join(lines(Path.cwd())).encode()
    Path(sys.argv[1]).write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
