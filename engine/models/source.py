"""What every source of model files has in common: it delivers a file of the right size and hash, or says why not.

Knows neither the catalogue's places nor any particular source.
"""

from __future__ import annotations

from engine.models.catalogue import CatalogueModel


class SourceError(Exception):
    """This source did not deliver; the message is the cause, in a line. The next source may still be tried."""


def check_delivery(model: CatalogueModel, size: int, sha256: str) -> None:
    """Raises SourceError unless size and hash are the catalogue's."""
    if size != model.bytes:
        raise SourceError(f"delivered {size:,} bytes where {model.bytes:,} were expected")
    if sha256 != model.sha256:
        raise SourceError(f"delivered a file with SHA-256 {sha256}, not {model.sha256}")
