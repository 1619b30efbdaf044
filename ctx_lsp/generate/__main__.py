"""Writes the editors' files anew."""

from __future__ import annotations

from ctx_lsp.generate.files import FILES

for path, text in FILES.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(), encoding="utf-8")
    print(path)
